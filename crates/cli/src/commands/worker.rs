//! `aetherium worker …` with a verb; without one it is a role, see `roles.rs`.

use super::{more, page};
use crate::{
    args::{Args, WorkerCommand},
    client::Client,
    error::CliError,
    print,
};
use aetherium_model::{page::Page, worker::Worker};

pub(crate) async fn dispatch(args: &Args, verb: &WorkerCommand) -> Result<(), CliError> {
    let client = Client::connect(args)?;
    match verb {
        WorkerCommand::List(list) => {
            let workers: Page<Worker> = client.get(&format!("/workers?{}", page(list))).await?;
            if args.json {
                return print::json(&workers);
            }
            let row = |worker: &Worker| {
                let driver = worker.driver.map_or_else(|| "none".to_owned(), |it| it.to_string());
                let state = worker.state.as_str().to_owned();
                vec![
                    worker.id.to_string(),
                    worker.hostname.clone(),
                    state,
                    driver,
                    worker.vms.to_string(),
                    worker.heartbeat_at.to_string(),
                ]
            };
            let rows: Vec<_> = workers.items.iter().map(row).collect();
            print::table(&["ID", "HOST", "STATE", "DRIVER", "VMS", "HEARTBEAT"], &rows);
            more(workers.next_cursor.as_ref());
        }
        WorkerCommand::Get { worker } => {
            print::json(&client.get::<Worker>(&format!("/workers/{worker}")).await?)?;
        }
    }
    Ok(())
}
