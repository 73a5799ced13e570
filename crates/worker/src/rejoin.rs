//! Commands that outlive the connection to their agent, and the worker itself.
//!
//! ```text
//!            ┌────────────── followed ◄─────────────┐
//! started ───┤                                      │ found by its run's id, from where the log stands
//!            └─ connection lost, worker restarted ──┘
//! ```
//! A logged run's command is started detached, with the run's id as its tag. Whoever follows it after
//! a loss asks the agent for that tag. The log says how much of each stream has come: what the guest
//! still holds from there on is read, and what it had to drop is told. A tag that the agent does not
//! know is not started again, ever.

use crate::{host::Host, secrets::Delivered, vm::VmHandle};
use aetherium_agent_client::{AgentClient, AgentError, Process, ProcessEvent, Role, StreamOffsets};
use aetherium_agent_proto::ExecSpec;
use aetherium_model::{
    Code, Fault,
    output::{EventBody, Stream},
    run::Command,
};
use aetherium_store::{RunRef, StoreError};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a command may take to be found again while its VM runs: an agent notices within seconds
/// that the connection before is gone.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long to wait before it is tried again: while the agent has not noticed that the earlier
/// connection is gone, the place is taken.
const PAUSE: Duration = Duration::from_millis(100);
/// Entries of a log that are read at once.
const PAGE: u32 = 500;

/// A command as the worker follows it.
pub(crate) struct Followed {
    process: Process,
    /// So much was dropped before the next output, and is not told yet.
    gone: Option<StreamOffsets>,
    way_back: Option<WayBack>,
}

impl From<Process> for Followed {
    /// A command that ends with its connection.
    fn from(process: Process) -> Self {
        Self { process, gone: None, way_back: None }
    }
}

impl Followed {
    /// What the process does next, across losses of the connection; see [`Process::next`]. Safe to
    /// drop and call again.
    pub(crate) async fn next(&mut self) -> Result<Option<ProcessEvent>, AgentError> {
        loop {
            if let Some(gone) = self.gone.take() {
                return Ok(Some(ProcessEvent::Skipped(gone)));
            }
            let lost = match self.process.next().await {
                Err(error) if may_pass(&error) => error,
                other => return other,
            };
            let Some(way_back) = self.way_back.clone() else { return Err(lost) };
            tracing::info!(tag = way_back.tag, error = %lost, "its command is looked for again");
            *self = way_back.find(self.process.offsets()).await?;
        }
    }

    /// Sends a signal to the command and all of its group.
    pub(crate) async fn signal(&self, signal: i32) -> Result<(), AgentError> {
        self.process.signaller().signal(signal).await
    }
}

/// Starts the command of a run whose start mark is written, so that it can be found again.
pub(crate) async fn start(
    vm: &VmHandle,
    agent: &AgentClient,
    run: RunRef,
    command: &Command,
    secrets: &Delivered,
) -> Result<Followed, AgentError> {
    start_as(vm, agent, run.to_string(), secrets.spec(command, false)).await
}

/// Starts a command so that it can be found again by this tag, which no other command has.
pub(crate) async fn start_as(
    vm: &VmHandle,
    agent: &AgentClient,
    tag: String,
    spec: ExecSpec,
) -> Result<Followed, AgentError> {
    let way_back = WayBack { vm: vm.clone(), tag };
    match agent.exec(spec.clone().detached().tag(way_back.tag.clone())).await {
        Ok(process) => Ok(Followed { process, gone: None, way_back: Some(way_back) }),
        // An agent from before commands could be found again.
        Err(AgentError::Unsupported { .. }) => agent.exec(spec).await.map(Followed::from),
        // It may run, and only the answer be lost.
        Err(lost @ (AgentError::ConnectionLost { .. } | AgentError::DeadlineExceeded { .. })) => {
            let found = way_back.find(StreamOffsets::default()).await;
            found.map_err(|error| {
                tracing::warn!(tag = way_back.tag, %error, "a command that may have started was not found");
                lost
            })
        }
        Err(error) => Err(error),
    }
}

/// Finds the command of a run that an earlier process of this worker had started, and follows it from
/// where the run's log stands.
///
/// # Errors
/// Why it cannot be found: the VM has ended, or its agent does not know it.
pub(crate) async fn find_again(host: &Host, vm: &VmHandle, run: RunRef) -> Result<Followed, Fault> {
    let at = end_of_log(host, run).await?;
    let way_back = WayBack { vm: vm.clone(), tag: run.to_string() };
    way_back.find(at).await.map_err(|error| Fault::new(Code::AgentLost, error.to_string()))
}

/// How much of each stream a run's log stands for. A full one stands for all there will be.
async fn end_of_log(host: &Host, run: RunRef) -> Result<StreamOffsets, StoreError> {
    let (mut at, mut after) = (StreamOffsets::default(), 0);
    loop {
        let page = host.queue.store().events(run, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(at) };
        after = last.seq;
        for entry in &page {
            if let EventBody::Truncated { .. } = entry.body {
                return Ok(StreamOffsets { stdout: u64::MAX, stderr: u64::MAX });
            }
            match entry.body.extent() {
                Some((Stream::Stdout, bytes)) => at.stdout += bytes,
                Some((Stream::Stderr, bytes)) => at.stderr += bytes,
                None => {}
            }
        }
    }
}

/// How a command is found again.
#[derive(Clone)]
struct WayBack {
    vm: VmHandle,
    /// The command's name in its guest.
    tag: String,
}

impl WayBack {
    /// Finds the command and follows it from `at`, or from what is left after that. A paused VM is
    /// waited for as long as somebody keeps it so; one that runs has a deadline.
    async fn find(&self, at: StreamOffsets) -> Result<Followed, AgentError> {
        let mut deadline = None;
        loop {
            let agent = match self.vm.agent().await {
                Ok(agent) => agent,
                Err(fault) if fault.code == Code::Conflict => {
                    self.vm.resumed().await;
                    deadline = None;
                    continue;
                }
                Err(fault) => return Err(AgentError::VmEnded { reason: fault.to_string() }),
            };
            let until = *deadline.get_or_insert_with(|| Instant::now() + DEADLINE);
            match agent.attach(self.tag.as_str(), Some(at), Role::Starter).await {
                Ok(process) => return Ok(self.follow(process, at)),
                Err(error) if may_pass(&error) && Instant::now() < until => {
                    tracing::debug!(tag = self.tag, %error, "not found yet");
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn follow(&self, process: Process, wanted: StreamOffsets) -> Followed {
        let begins = process.offsets();
        let gone = StreamOffsets {
            stdout: begins.stdout.saturating_sub(wanted.stdout),
            stderr: begins.stderr.saturating_sub(wanted.stderr),
        };
        let gone = (gone != StreamOffsets::default()).then_some(gone);
        Followed { process, gone, way_back: Some(self.clone()) }
    }
}

/// Whether another try may find what this one did not.
fn may_pass(error: &AgentError) -> bool {
    matches!(
        error,
        AgentError::ConnectionLost { .. }
            | AgentError::Unreachable { .. }
            | AgentError::DeadlineExceeded { .. }
            | AgentError::Taken { .. }
    )
}
