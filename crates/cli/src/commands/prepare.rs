//! `aetherium ws prepare`, `ws retry`, and the wait of `ws create --wait`: a workspace's preparation,
//! followed step by step.

use super::ws::{show, show_json};
use crate::{
    args::{AgainArgs, Args},
    attach::Terminal,
    client::Client,
    error::{CliError, local},
    print,
};
use aetherium_gateway::api::PrepareWorkspace;
use aetherium_model::{
    Code, Fault,
    output::{EventBody, OutputEvent},
    run::RunState,
    setup::Setup,
    task::Task,
    workspace::Workspace,
};
use std::path::Path;

/// Has a workspace prepared, and follows it unless told otherwise.
pub(crate) async fn again(
    args: &Args,
    client: &Client,
    wanted: &AgainArgs,
    force: bool,
    setup: Option<&Path>,
) -> Result<(), CliError> {
    let setup = setup.map(read).transpose()?;
    let request = PrepareWorkspace { force, setup };
    let path = format!("/workspaces/{}/prepare", wanted.workspace);
    let task: Task = client.post(&path, &request).await?;
    if !wanted.detach {
        return follow(args, client, &wanted.workspace, &task.id.to_string()).await;
    }
    if args.json {
        return print::json(&task);
    }
    println!("{}", task.id);
    Ok(())
}

/// A setup from a file of JSON.
fn read(file: &Path) -> Result<Setup, CliError> {
    let text = std::fs::read_to_string(file).map_err(|error| local(file.display(), error))?;
    serde_json::from_str(&text).map_err(|error| {
        Fault::new(Code::InvalidRequest, format!("{} is no setup: {error}", file.display()))
            .remedy("write it as JSON, as `aetherium ws get` shows it under `setup`")
            .into()
    })
}

/// Shows a preparation's steps and what they print as it comes; fails as it does.
pub(crate) async fn follow(
    args: &Args,
    client: &Client,
    workspace: &str,
    task: &str,
) -> Result<(), CliError> {
    let mut terminal = Terminal::quiet();
    let json = args.json;
    let tell = |event: &OutputEvent| match &event.body {
        _ if json => show_json(event),
        EventBody::Status { stage, message } => eprintln!("{}", line(stage, message)),
        _ => show(&mut terminal, event),
    };
    match client.follow(&format!("/tasks/{task}/events"), tell).await? {
        RunState::Completed { .. } => {}
        RunState::Failed { fault } | RunState::Interrupted { fault } => return Err(fault.into()),
        _ => {
            return Err(Fault::new(Code::Cancelled, "the preparation was cancelled")
                .remedy("take it up again with `aetherium ws retry`")
                .into());
        }
    }
    if !json {
        let now: Workspace = client.get(&format!("/workspaces/{workspace}")).await?;
        println!("{} {} is {}", now.id, now.name, now.state.as_str());
    }
    Ok(())
}

/// How far it is, in a line.
fn line(stage: &str, message: &str) -> String {
    match stage {
        "step_started" => format!("… {message}"),
        "step_done" => format!("✓ {message}"),
        "step_unchanged" => format!("✓ {message} (unchanged)"),
        "step_failed" => format!("✗ {message}"),
        "warning" => format!("! {message}"),
        _ => format!("… {message}"),
    }
}
