//! From a prompt to the first byte of its output: in a hibernated workspace, against the same workspace
//! with nothing but its disk, whose VM boots. Then with memory that is encrypted, as its prompts have a secret.

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
    secret::{SecretName, SecretUses},
    task::Task,
    vm::Vm,
    workspace::{IdleAction, Lifecycle, Prompt, Workspace},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The workspace's name; one that an earlier run left is replaced.
const NAME: &str = "bench-wake";
/// The secret that the prompts of some rounds have.
const SECRET: &str = "BENCH";
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
    let secret = json!({ "name": SECRET, "value": "of the benchmark" });
    let _: Value = client.post(&format!("/workspaces/{NAME}/secrets"), &secret).await?;
    let (mut plain, mut sealed) = (Rounds::default(), Rounds::default());
    for round in 0..rounds {
        bars.tick(&format!("round {} of {rounds}", round + 1));
        plain.add(client, &SecretUses::default()).await?;
        sealed.add(client, &secret_uses()?).await?;
    }
    bars.clear();
    remove(client).await?;
    let floor = median(&mut plain.booted);
    let with_secret = median(&mut sealed.booted);
    Ok(vec![
        Figure::new("wake.cold_boot_to_first_output_p50", floor, "ms"),
        Figure::new("wake.hibernated_to_first_output_p50", median(&mut plain.woken), "ms")
            .over(floor),
        Figure::new("wake.hibernating_p50", median(&mut plain.hibernated), "ms"),
        Figure::new("wake.kept_memory", plain.kept_mib, "MiB"),
        Figure::new("wake.encrypted_to_first_output_p50", median(&mut sealed.woken), "ms")
            .over(with_secret),
        Figure::new("wake.encrypting_p50", median(&mut sealed.hibernated), "ms"),
        Figure::new("wake.kept_memory_encrypted", sealed.kept_mib, "MiB"),
    ])
}

/// What some rounds took, in milliseconds.
#[derive(Default)]
struct Rounds {
    booted: Vec<f64>,
    hibernated: Vec<f64>,
    woken: Vec<f64>,
    /// What the last one left on the disk.
    kept_mib: f64,
}

impl Rounds {
    /// Boots, hibernates and wakes a VM whose prompts have these secrets.
    async fn add(&mut self, client: &Client, secrets: &SecretUses) -> Result<(), CliError> {
        end_vm(client).await?;
        self.booted.push(ms(to_first_output(client, secrets).await?));
        let began = Instant::now();
        let path = format!("/workspaces/{NAME}/hibernate");
        let now: Workspace = client.post_within(HIBERNATE_DEADLINE, &path, &json!({})).await?;
        self.hibernated.push(ms(began.elapsed()));
        if let Lifecycle::Hibernated { hibernation } = now.lifecycle {
            self.kept_mib = hibernation.bytes as f64 / 1_048_576.0;
        }
        self.woken.push(ms(to_first_output(client, secrets).await?));
        Ok(())
    }
}

fn secret_uses() -> Result<SecretUses, Fault> {
    let name: SecretName = SECRET.parse().map_err(Fault::internal)?;
    Ok(SecretUses::from_iter([(name.clone(), name)]))
}

/// Sends a prompt, and tells how long its first byte took.
async fn to_first_output(client: &Client, secrets: &SecretUses) -> Result<Duration, CliError> {
    let began = Instant::now();
    let request = CreatePrompt { secrets: secrets.clone(), ..CreatePrompt::of("echo x") };
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
