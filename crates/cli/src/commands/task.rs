//! `aetherium task …`.

use super::{more, page};
use crate::{
    args::{Args, TaskCommand},
    client::Client,
    error::CliError,
    print,
};
use aetherium_model::{page::Page, task::Task};

pub(crate) async fn dispatch(args: &Args, verb: &TaskCommand) -> Result<(), CliError> {
    let client = Client::connect(args)?;
    match verb {
        TaskCommand::List { state, dead, list } => {
            let state = state.as_ref().map_or_else(String::new, |state| format!("&state={state}"));
            let dead = if *dead { "&dead=true" } else { "" };
            let path = format!("/tasks?{}{state}{dead}", page(list));
            let tasks: Page<Task> = client.get(&path).await?;
            if args.json {
                return print::json(&tasks);
            }
            let row = |task: &Task| {
                let fault =
                    task.fault.as_ref().map_or_else(String::new, |fault| fault.code.to_string());
                let kind = task.kind.as_str().to_owned();
                let state = task.state.as_str().to_owned();
                vec![
                    task.id.to_string(),
                    kind,
                    state,
                    task.attempts.to_string(),
                    task.created_at.to_string(),
                    fault,
                ]
            };
            let rows: Vec<_> = tasks.items.iter().map(row).collect();
            print::table(&["ID", "TYPE", "STATE", "ATTEMPTS", "CREATED", "FAULT"], &rows);
            more(tasks.next_cursor.as_ref());
        }
        TaskCommand::Get { task } => {
            print::json(&client.get::<Task>(&format!("/tasks/{task}")).await?)?;
        }
        TaskCommand::Cancel { task } => change(args, &client, task, "cancel").await?,
        TaskCommand::Requeue { task } => change(args, &client, task, "requeue").await?,
    }
    Ok(())
}

/// Asks for a change, and prints how the task stands then.
async fn change(args: &Args, client: &Client, task: &str, verb: &str) -> Result<(), CliError> {
    let path = format!("/tasks/{task}/{verb}");
    let now: Task = client.post(&path, &serde_json::json!({})).await?;
    if args.json {
        return print::json(&now);
    }
    println!("{} is {}", now.id, now.state.as_str());
    Ok(())
}
