//! `aetherium worker …` with a verb; without one it is a role, see `roles.rs`.

use super::{more, page};
use crate::{
    args::{Args, WorkerCommand},
    client::Client,
    error::CliError,
    print,
    progress::Bars,
};
use aetherium_gateway::api::DrainWorker;
use aetherium_model::{
    WorkerId,
    page::Page,
    worker::{Worker, WorkerState},
};
use serde_json::json;
use std::time::Duration;

/// How often a worker that is being drained is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(crate) async fn dispatch(args: &Args, verb: &WorkerCommand) -> Result<(), CliError> {
    let client = Client::connect(args)?;
    match verb {
        WorkerCommand::List(list) => {
            let workers: Page<Worker> = client.get(&format!("/workers?{}", page(list))).await?;
            if args.json {
                return print::json(&workers);
            }
            let rows: Vec<_> = workers.items.iter().map(line).collect();
            let headings =
                ["ID", "HOST", "ZONE", "STATE", "DRIVER", "VMS", "VCPUS", "MEMORY", "HEARTBEAT"];
            print::table(&headings, &rows);
            more(workers.next_cursor.as_ref());
        }
        WorkerCommand::Inspect { worker } => {
            print::json(&client.get::<Worker>(&format!("/workers/{worker}")).await?)?;
        }
        WorkerCommand::Cordon { worker } => {
            show(args, &client.post(&format!("/workers/{worker}/cordon"), &json!({})).await?)?;
        }
        WorkerCommand::Drain { worker, deadline, wait } => {
            let deadline_s = deadline.map(|it| u32::try_from(it.as_secs()).unwrap_or(u32::MAX));
            let path = format!("/workers/{worker}/drain");
            let mut drained: Worker = client.post(&path, &DrainWorker { deadline_s }).await?;
            if *wait {
                drained = wait_for_drain(&client, *worker).await?;
            }
            show(args, &drained)?;
        }
        WorkerCommand::Activate { worker } => {
            show(args, &client.post(&format!("/workers/{worker}/activate"), &json!({})).await?)?;
        }
    }
    Ok(())
}

/// Waits until no VM is left on a worker, or it takes them again. Its deadline is the drain's own.
async fn wait_for_drain(client: &Client, id: WorkerId) -> Result<Worker, CliError> {
    let bars = Bars::new();
    let drained = loop {
        let worker: Worker = client.get(&format!("/workers/{id}")).await?;
        if worker.state != WorkerState::Draining {
            break worker;
        }
        bars.spin(&format!("{} VMs are left", worker.reserved.vms));
        tokio::time::sleep(LOOK_EVERY).await;
    };
    bars.clear();
    Ok(drained)
}

fn show(args: &Args, worker: &Worker) -> Result<(), CliError> {
    if args.json {
        return print::json(worker);
    }
    let Worker { id, hostname, state, reserved, .. } = worker;
    println!("{id} ({hostname}) is {}, with {} VMs", state.as_str(), reserved.vms);
    Ok(())
}

fn line(worker: &Worker) -> Vec<String> {
    let of = |taken: u64, all: u64, unit: &str| format!("{taken}/{all}{unit}");
    let Worker { reserved, allocatable, .. } = worker;
    vec![
        worker.id.to_string(),
        worker.hostname.clone(),
        worker.zone.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        worker.state.as_str().to_owned(),
        worker.driver.map_or_else(|| "none".to_owned(), |it| it.to_string()),
        reserved.vms.to_string(),
        of(reserved.vcpus.into(), allocatable.vcpus.into(), ""),
        of(reserved.memory_mib, allocatable.memory_mib, " MiB"),
        worker.heartbeat_at.to_string(),
    ]
}
