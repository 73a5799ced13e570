//! From a prompt to the first byte of its output: in a hibernated workspace, against the same workspace
//! with nothing but its disk, whose VM boots.

use super::{Figure, median, ms, server};
use crate::{
    args::{Args, BenchArgs},
    client::Client,
    error::CliError,
    progress::Bars,
};
use aetherium_gateway::api::{CreatePrompt, CreateWorkspace};
use aetherium_model::{
    Fault, TaskId,
    output::EventBody,
    run::RunState,
    task::Task,
    vm::Vm,
    workspace::{IdleAction, Lifecycle, Prompt, Workspace},
};
use serde_json::json;
use std::time::{Duration, Instant};

/// The workspace's name; one that an earlier run left is replaced.
const NAME: &str = "bench-wake";
/// Writing a VM's memory.
const HIBERNATE_DEADLINE: Duration = Duration::from_secs(630);
/// How often it is looked whether a task has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub(super) async fn wake(
    args: &Args,
    rounds: u32,
    bench: &BenchArgs,
) -> Result<Vec<Figure>, CliError> {
    let server = server(args, bench).await?;
    let measured = match server.client() {
        Ok(client) => measure(&client, rounds, bench).await,
        Err(error) => Err(error),
    };
    server.stop().await;
    measured
}

async fn measure(client: &Client, rounds: u32, bench: &BenchArgs) -> Result<Vec<Figure>, CliError> {
    let bars = Bars::new();
    // There may be none.
    let _ = remove(client).await;
    let request = CreateWorkspace {
        template: Some((&bench.template).into()),
        idle_action: Some(IdleAction::Hibernate),
        ..CreateWorkspace::named(NAME.parse().map_err(Fault::internal)?)
    };
    let _: Workspace = client.post("/workspaces", &request).await?;
    let (mut booted, mut woken, mut hibernated) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0;
    for round in 0..rounds {
        bars.tick(&format!("round {} of {rounds}", round + 1));
        end_vm(client).await?;
        booted.push(ms(to_first_output(client).await?));
        let began = Instant::now();
        let path = format!("/workspaces/{NAME}/hibernate");
        let now: Workspace = client.post_within(HIBERNATE_DEADLINE, &path, &json!({})).await?;
        hibernated.push(ms(began.elapsed()));
        if let Lifecycle::Hibernated { hibernation } = now.lifecycle {
            bytes = hibernation.bytes;
        }
        woken.push(ms(to_first_output(client).await?));
    }
    bars.clear();
    remove(client).await?;
    let floor = median(&mut booted);
    Ok(vec![
        Figure::new("wake.cold_boot_to_first_output_p50", floor, "ms"),
        Figure::new("wake.hibernated_to_first_output_p50", median(&mut woken), "ms").over(floor),
        Figure::new("wake.hibernating_p50", median(&mut hibernated), "ms"),
        Figure::new("wake.kept_memory", bytes as f64 / 1_048_576.0, "MiB"),
    ])
}

/// Sends a prompt, and tells how long its first byte took.
async fn to_first_output(client: &Client) -> Result<Duration, CliError> {
    let began = Instant::now();
    let request = CreatePrompt::of("echo x");
    let prompts = format!("/workspaces/{NAME}/prompts");
    let prompt: Prompt = client.post(&prompts, &request).await?;
    let mut first = None;
    let ended = client
        .follow(&format!("{prompts}/{}/events", prompt.id), |event| {
            if let EventBody::Output { .. } = event.body {
                first.get_or_insert_with(|| began.elapsed());
            }
        })
        .await?;
    match (first, ended) {
        (Some(first), RunState::Completed { .. }) => Ok(first),
        (_, RunState::Failed { fault } | RunState::Interrupted { fault }) => Err(fault.into()),
        _ => Err(Fault::internal("the prompt printed nothing").into()),
    }
}

/// Leaves the workspace with nothing but its disk.
async fn end_vm(client: &Client) -> Result<(), CliError> {
    let workspace: Workspace = client.get(&format!("/workspaces/{NAME}")).await?;
    let Some(id) = workspace.vm_id() else { return Ok(()) };
    let task: Task = client.delete(&format!("/vms/{id}")).await?;
    done(client, task.id).await?;
    while !client.get::<Vm>(&format!("/vms/{id}")).await?.state.is_terminal() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

async fn remove(client: &Client) -> Result<(), CliError> {
    let task: Task = client.delete(&format!("/workspaces/{NAME}")).await?;
    done(client, task.id).await
}

async fn done(client: &Client, task: TaskId) -> Result<(), CliError> {
    while !client.get::<Task>(&format!("/tasks/{task}")).await?.state.is_terminal() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}
