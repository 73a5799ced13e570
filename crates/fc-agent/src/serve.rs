//! Serving, from the first listener to the last process.
//!
//! ```text
//! bind ──► accept ──asked to stop──► no new work ──► TERM ──grace──► KILL ──► done
//! ```
//!
//! Owns the runtime, the listeners' tasks and the end of every process. Must never decide what the
//! end means for the machine: an init powers off, a plain process exits.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aetherium_agent_proto::{AgentTransport, Token};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::exec::Children;
use crate::server::{self, Agent, Identity, Listener};
use crate::system::Machine;

/// How long processes get between TERM and KILL when the agent ends.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// How long to wait for the killed to be gone, and for last answers to be sent.
const SHUTDOWN_DRAIN: Duration = Duration::from_secs(1);

/// What to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    pub(crate) machine: Machine,
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
}

/// Serves until asked to end, then ends every process it started. Calls `ready` with each address.
pub(crate) fn run(config: ServeConfig, ready: impl FnMut(&Listen)) -> Result<Ending, ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    runtime.block_on(serve(config, ready))
}

async fn serve(config: ServeConfig, mut ready: impl FnMut(&Listen)) -> Result<Ending, ServeError> {
    let children = Arc::new(Children::default());
    let mut reaper = tokio::spawn(crate::exec::reap_forever(children.clone()));
    let mut listeners = Vec::new();
    for listen in config.listen {
        let listener =
            Listener::bind(&listen).map_err(|source| ServeError::Bind { listen, source })?;
        listeners.push(listener);
    }
    let identity = Identity::new(config.role, config.started_uptime_ms, transports(&listeners));
    let agent = Arc::new(Agent::new(identity, children.clone(), config.token, config.machine));
    listeners.iter().for_each(|listener| ready(listener.address()));

    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(server::accept_forever(listener, agent.clone()));
    }
    let ending = tokio::select! {
        () = asked_to_stop() => Ending::Signalled,
        () = agent.stop_wanted() => Ending::Wished,
        // Without its reaper the agent would never see a process end.
        _ = &mut reaper => Ending::Signalled,
    };
    agent.stop();
    end_processes(&children, config.role).await;
    // Accepting ends by itself once every connection has sent its last answer.
    let _ = tokio::time::timeout(SHUTDOWN_DRAIN, async {
        while accepting.join_next().await.is_some() {}
    })
    .await;
    reaper.abort();
    Ok(ending)
}

fn transports(listeners: &[Listener]) -> Vec<AgentTransport> {
    let mut transports: Vec<_> = listeners.iter().map(Listener::transport).collect();
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
