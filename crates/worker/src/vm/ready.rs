//! What a template has its VMs start by themselves, and how one knows that it works.

use crate::run::exec_spec;
use aetherium_agent_client::{AgentClient, AgentError, collect};
use aetherium_agent_proto::{ExecSpec, Life};
use aetherium_model::{
    Code, Fault,
    run::Command,
    template::{ImageDefaults, ReadyCheck, Template},
};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// By which name the start command's process is found in the guest.
const START_TAG: &str = "start";
/// Between two tries of a ready command: it costs the guest a process each time.
const PAUSE: Duration = Duration::from_millis(250);
/// What is kept of a try's output, in bytes.
const OUTPUT_BYTES: usize = 4096;
/// The lines of it that a failure repeats.
const TAIL_LINES: usize = 10;

/// Starts the template's start command, unless it was started before, and waits until its ready command has succeeded. A template
/// without either is ready at once.
///
/// # Errors
/// [`Code::NotReady`]: the one could not be started, or the other did not succeed in time.
pub(super) async fn bring_up(agent: &AgentClient, template: &Template) -> Result<(), Fault> {
    let image = template.image.clone().unwrap_or_default();
    if let Some(command) = &template.start
        && !was_started(agent).await?
    {
        start(agent, &image.complete(command)).await?;
    }
    match &template.ready {
        Some(check) => await_success(agent, check, &image).await,
        None => Ok(()),
    }
}

/// Whether an earlier process of this worker came to start the command before it ended.
async fn was_started(agent: &AgentClient) -> Result<bool, Fault> {
    let known = agent.list_all().await.map_err(|error| {
        let detail = format!("the guest does not tell whether its start command runs: {error}");
        Fault::new(Code::NotReady, detail).remedy("read the VM's console, and start another one")
    })?;
    Ok(known.iter().any(|process| process.tag.as_deref() == Some(START_TAG)))
}

async fn start(agent: &AgentClient, command: &Command) -> Result<(), Fault> {
    let spec = ExecSpec {
        life: Life::Detached,
        tag: Some(START_TAG.to_owned()),
        timeout_ms: None,
        ..exec_spec(command, false)
    };
    // It lives on without this handle.
    agent.exec(spec).await.map(drop).map_err(|error| {
        let detail =
            format!("the template's start command {:?} did not start: {error}", command.argv);
        Fault::new(Code::NotReady, detail)
            .remedy("check it against what the template has: its program, user and directory")
    })
}

async fn await_success(
    agent: &AgentClient,
    check: &ReadyCheck,
    image: &ImageDefaults,
) -> Result<(), Fault> {
    let command = image.complete(&check.command);
    let deadline = Instant::now() + Duration::from_millis(check.deadline_ms);
    let mut last = Try::default();
    loop {
        match timeout_at(deadline, attempt(agent, &command)).await {
            Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(failed))) => last = failed,
            Ok(Err(error)) => last = Try { how: error.to_string(), lines: Vec::new() },
            Err(_) if last.how.is_empty() => last.how = "it was still running".to_owned(),
            Err(_) => {}
        }
        if Instant::now() + PAUSE >= deadline {
            let detail = format!(
                "the template's ready command {:?} did not succeed within {} ms: {}",
                command.argv, check.deadline_ms, last.how
            );
            return Err(Fault::new(Code::NotReady, detail)
                .remedy("run the start command in a VM of the base by hand, or give it more time")
                .evidence(last.lines));
        }
        sleep(PAUSE).await;
    }
}

/// How a try failed.
#[derive(Debug, Default)]
struct Try {
    how: String,
    lines: Vec<String>,
}

/// Runs the ready command once; nothing if it succeeded.
async fn attempt(agent: &AgentClient, command: &Command) -> Result<Option<Try>, AgentError> {
    let process = agent.exec(exec_spec(command, false)).await?;
    let output = collect(process, OUTPUT_BYTES).await.map_err(|failed| failed.error)?;
    if output.exit.status.success() {
        return Ok(None);
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let lines = lines[lines.len().saturating_sub(TAIL_LINES)..].to_vec();
    Ok(Some(Try { how: output.exit.status.to_string(), lines }))
}
