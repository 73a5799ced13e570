//! Serving, from the first listener to the last process.
//!
//! ```text
//! bind ──► accept ──asked to stop──► no new work ──► TERM ──grace──► KILL ──► done
//! take over ──┘  └─upgrade──► callers leave ──► exec of the next program, which takes over
//! ```
//!
//! Owns the runtime, the listeners' tasks and the end of every process. Must never decide what the
//! end means for the machine: an init powers off, a plain process exits.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aetherium_agent_proto::{AgentTransport, Token};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::exec::{Children, Phase};
use crate::server::{self, Agent, Doors, Identity, Listener};
use crate::system::Machine;
use crate::upgrade::{self, Candidate, Estate, Handover, Replacement};

/// How long processes get between TERM and KILL when the agent ends.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// How long to wait for the killed to be gone, and for last answers to be sent.
const SHUTDOWN_DRAIN: Duration = Duration::from_secs(1);

/// How long callers get to take what is left for them before an upgrade, and to go.
const LEAVE_TIME: Duration = Duration::from_secs(5);
/// How many descriptors the agent may have open: three for each process it may run, and its
/// connections.
const DESCRIPTORS: libc::rlim64_t = 16_384;

/// What to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Listen {
    Unix(PathBuf),
    Tcp(SocketAddr),
    Vsock(u32),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Vsock(port) => write!(f, "vsock:{port}"),
        }
    }
}

/// Whether the agent owns the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    /// PID 1: every process is its to end.
    Init,
    /// A program among others.
    Process,
}

/// How to serve.
pub(crate) struct ServeConfig {
    pub(crate) listen: Vec<Listen>,
    /// Required of callers over TCP.
    pub(crate) token: Option<Token>,
    pub(crate) role: Role,
    /// What an agent whose machine is its own keeps for that machine's end; none on a shared one.
    pub(crate) estate: Option<Estate>,
    pub(crate) started_uptime_ms: u64,
}

/// Why serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By a caller, who means the whole machine where it is the agent's own.
    Wished,
    /// By a signal to the agent.
    Signalled,
}

/// Why it could not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("the runtime cannot start: {0}")]
    Runtime(#[source] io::Error),
    #[error("{listen} cannot be listened on: {source}")]
    Bind { listen: Listen, source: io::Error },
    #[error("what the program before has left cannot be taken over: {0}")]
    Handover(#[source] io::Error),
    #[error("the first process was not asked for the machine's end: {0}")]
    MachineEnd(#[source] io::Error),
}

/// Why the program was not replaced after all.
#[derive(Debug, thiserror::Error)]
enum NotReplaced {
    #[error("{0} connections had not taken all that was sent to them; try again when they have")]
    Busy(usize),
    #[error("the new program could not be executed: {0}")]
    Exec(#[source] io::Error),
}

/// Serves until asked to end, then ends every process it started. Calls `ready` with each address.
pub(crate) fn run(
    config: ServeConfig,
    mut ready: impl FnMut(&Listen),
) -> Result<Ending, ServeError> {
    in_runtime(async move {
        let mut listeners = Vec::new();
        for listen in config.listen {
            let listener =
                Listener::bind(&listen).map_err(|source| ServeError::Bind { listen, source })?;
            listeners.push(Arc::new(listener));
        }
        let descriptor_limit = raise_descriptor_limit();
        let service = Service {
            children: Arc::new(Children::new(descriptor_limit)),
            listeners,
            token: config.token,
            role: config.role,
            estate: config.estate,
            started_uptime_ms: config.started_uptime_ms,
            descriptor_limit,
            generation: 0,
        };
        service.serve(|listener| ready(listener.address())).await
    })
}

/// Serves on in the place of the program before.
pub(crate) fn take_over(handover: Handover, output: Bytes) -> Result<Ending, ServeError> {
    in_runtime(async move {
        let adopt = |(listen, fd)| Listener::adopt(listen, fd).map(Arc::new);
        let listeners: io::Result<Vec<_>> = handover.listeners.into_iter().map(adopt).collect();
        let limit = handover.descriptor_limit;
        let descriptor_limit =
            limit.map(|(soft, hard)| libc::rlimit64 { rlim_cur: soft, rlim_max: hard });
        let children = Arc::new(Children::new(descriptor_limit));
        let service = Service {
            listeners: listeners.map_err(ServeError::Handover)?,
            token: handover.token,
            role: handover.role,
            estate: handover.estate,
            started_uptime_ms: handover.started_uptime_ms,
            descriptor_limit,
            generation: handover.generation,
            children,
        };
        let restored = service.children.restore(handover.processes, output);
        restored.map_err(ServeError::Handover)?;
        service.serve(|_| {}).await
    })
}

fn in_runtime(
    serving: impl Future<Output = Result<Ending, ServeError>>,
) -> Result<Ending, ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    runtime.block_on(serving)
}

/// All that makes up an agent that serves.
struct Service {
    children: Arc<Children>,
    listeners: Vec<Arc<Listener>>,
    token: Option<Token>,
    role: Role,
    estate: Option<Estate>,
    started_uptime_ms: u64,
    descriptor_limit: Option<libc::rlimit64>,
    generation: u32,
}

impl Service {
    async fn serve(self, ready: impl FnMut(&Arc<Listener>)) -> Result<Ending, ServeError> {
        let mut reaper = tokio::spawn(crate::exec::reap_forever(self.children.clone()));
        let identity = Identity::new(
            self.role,
            self.started_uptime_ms,
            transports(&self.listeners),
            self.generation,
        );
        let (candidates, mut upgrades) = mpsc::channel(1);
        let machine = if self.estate.is_some() { Machine::Own } else { Machine::Shared };
        let agent = Arc::new(Agent::new(
            identity,
            self.children.clone(),
            self.token.clone(),
            machine,
            candidates,
        ));
        self.listeners.iter().for_each(ready);
        let mut accepting = JoinSet::new();
        for listener in &self.listeners {
            accepting.spawn(server::accept_forever(listener.clone(), agent.clone()));
        }
        let mut asked_to_stop = pin!(asked_to_stop());
        let ending = loop {
            tokio::select! {
                () = &mut asked_to_stop => break Ending::Signalled,
                () = agent.stop_wanted() => break Ending::Wished,
                // Without its reaper the agent would never see a process end.
                _ = &mut reaper => break Ending::Signalled,
                Some(candidate) = upgrades.recv() => {
                    let failure = self.replace(candidate, &agent).await;
                    agent.note_upgrade_failure(failure.to_string());
                }
            }
        };
        agent.set_doors(Doors::Closed);
        end_processes(&self.children, self.role).await;
        // Accepting ends by itself once every connection has sent its last answer.
        let _ = tokio::time::timeout(SHUTDOWN_DRAIN, async {
            while accepting.join_next().await.is_some() {}
        })
        .await;
        reaper.abort();
        Ok(ending)
    }

    /// Lets another program go on in this one's place. Returns only if that came to nothing.
    async fn replace(&self, candidate: Candidate, agent: &Agent) -> NotReplaced {
        self.children.set_phase(Phase::HandingOver);
        agent.set_doors(Doors::Leaving);
        let failure = match tokio::time::timeout(LEAVE_TIME, agent.limits().all_gone()).await {
            // While this is held, nobody comes in.
            Ok(_nobody) => {
                let frozen = self.children.freeze().await;
                let saved = self.children.save(&frozen);
                let handover = self.handover();
                let Err(error) = (Replacement { candidate, handover, saved }).execute();
                self.children.thaw(frozen);
                NotReplaced::Exec(error)
            }
            Err(_) => NotReplaced::Busy(agent.limits().connections()),
        };
        self.children.set_phase(Phase::Serving);
        agent.set_doors(Doors::Open);
        failure
    }

    fn handover(&self) -> Handover {
        let listeners = self.listeners.iter();
        Handover {
            format: upgrade::FORMAT,
            generation: self.generation + 1,
            token: self.token.clone(),
            role: self.role,
            estate: self.estate,
            started_uptime_ms: self.started_uptime_ms,
            descriptor_limit: self.descriptor_limit.map(|it| (it.rlim_cur, it.rlim_max)),
            listeners: listeners.map(|it| (it.address().clone(), it.descriptor())).collect(),
            processes: Vec::new(),
        }
    }
}

/// Raises the agent's own limit of open descriptors, as each process and connection takes some, and
/// returns the limit it had, for its children.
fn raise_descriptor_limit() -> Option<libc::rlimit64> {
    let mut before = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `before` is valid for writing.
    if unsafe { libc::getrlimit64(libc::RLIMIT_NOFILE, &raw mut before) } != 0 {
        return None;
    }
    // Only a privileged agent may raise the upper bound; any may go up to it.
    for max in [before.rlim_max.max(DESCRIPTORS), before.rlim_max] {
        let raised = libc::rlimit64 { rlim_cur: max.min(DESCRIPTORS), rlim_max: max };
        // SAFETY: `raised` is valid for reading.
        if unsafe { libc::setrlimit64(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            return Some(before);
        }
    }
    None
}

fn transports(listeners: &[Arc<Listener>]) -> Vec<AgentTransport> {
    let mut transports: Vec<_> = listeners.iter().map(|it| it.transport()).collect();
    transports.sort_unstable();
    transports.dedup();
    transports
}

/// Waits for a signal that means the end. An init gets INT when the machine's owner presses
/// Ctrl-Alt-Del, which is how some VMMs ask for an orderly end.
async fn asked_to_stop() {
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

async fn end_processes(children: &Children, role: Role) {
    for (signal, patience) in [(libc::SIGTERM, SHUTDOWN_GRACE), (libc::SIGKILL, SHUTDOWN_DRAIN)] {
        match role {
            // SAFETY: kill takes plain numbers; -1 means every process but this one and the kernel's.
            Role::Init => drop(unsafe { libc::kill(-1, signal) }),
            Role::Process => children.signal_all(signal),
        }
        if tokio::time::timeout(patience, children.wait_all_gone(role)).await.is_ok() {
            return;
        }
    }
}
