//! The agent's size and memory, as its kernel tells them to a command that the agent started.

use super::{super::Figure, fault};
use crate::error::CliError;
use aetherium_agent_client::{AgentClient, ExecSpec, collect};
use aetherium_model::{Code, Fault};

/// What an idle agent holds.
pub(super) async fn idle(agent: &AgentClient) -> Result<Figure, CliError> {
    Ok(now(agent, "agent.idle_memory").await?.value_at_most(4.0))
}

/// How large its program is.
pub(super) async fn program(agent: &AgentClient) -> Result<Figure, CliError> {
    let text = ask(agent, "stat -L -c %s /proc/$PPID/exe").await?;
    let bytes = text.trim().parse::<f64>();
    let bytes = bytes.map_err(|_| Fault::internal(format!("{text:?} is not a program's size")))?;
    Ok(Figure::new("agent.program", bytes / (1024.0 * 1024.0), "MiB").value_at_most(5.0))
}

/// What the agent holds now.
pub(super) async fn now(agent: &AgentClient, name: &str) -> Result<Figure, CliError> {
    Ok(Figure::new(name, status(agent, "VmRSS").await?, "MiB"))
}

/// The most that the agent has held since [`forget_peak`].
pub(super) async fn peak(agent: &AgentClient, name: &str) -> Result<Figure, CliError> {
    Ok(Figure::new(name, status(agent, "VmHWM").await?, "MiB"))
}

/// Begins a new peak: proc(5), `clear_refs`.
pub(super) async fn forget_peak(agent: &AgentClient) -> Result<(), CliError> {
    ask(agent, "echo 5 > /proc/$PPID/clear_refs").await.map(drop)
}

/// A field of the agent's own. The agent is the parent of what it starts.
async fn status(agent: &AgentClient, name: &str) -> Result<f64, CliError> {
    let text = ask(agent, "cat /proc/$PPID/status").await?;
    field(&text, name)
}

/// A field of a `/proc/<pid>/status`, in MiB.
pub(super) fn field(text: &str, name: &str) -> Result<f64, CliError> {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    let kib = line.and_then(|it| it.trim().trim_end_matches(" kB").parse::<f64>().ok());
    let kib = kib.ok_or_else(|| Fault::internal(format!("a process's status has no {name}")))?;
    Ok(kib / 1024.0)
}

async fn ask(agent: &AgentClient, script: &str) -> Result<String, CliError> {
    let process = agent.exec(ExecSpec::new(["sh", "-c", script])).await.map_err(fault)?;
    let output = collect(process, 64 * 1024).await.map_err(|failed| fault(failed.error))?;
    if !output.exit.status.success() {
        let detail = format!("`{script}`: {}", String::from_utf8_lossy(&output.stderr).trim());
        return Err(Fault::new(Code::SpawnFailed, detail).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
