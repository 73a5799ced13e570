//! Where an agent may be reached, and how long to try.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use aetherium_agent_proto::{AgentTransport, Token};

/// One way to an agent.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// A Unix socket the agent itself listens on.
    Unix {
        /// The socket.
        path: PathBuf,
    },
    /// A VMM's Unix socket that opens guest ports on `CONNECT <port>`.
    Vsock {
        /// The VMM's socket.
        uds: PathBuf,
        /// The guest's port.
        port: u32,
    },
    /// TCP, with the token the guest demands.
    Tcp {
        /// The guest's address, or one that forwards to it.
        addr: SocketAddr,
        /// The VM's token.
        token: Token,
    },
}

impl Endpoint {
    /// The transport's name.
    #[must_use]
    pub fn transport(&self) -> AgentTransport {
        match self {
            Self::Unix { .. } => AgentTransport::Unix,
            Self::Vsock { .. } => AgentTransport::Vsock,
            Self::Tcp { .. } => AgentTransport::Tcp,
        }
    }

    /// Trusted local ways before TCP.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Self::Unix { .. } => 0,
            Self::Vsock { .. } => 1,
            Self::Tcp { .. } => 2,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
            Self::Vsock { uds, port } => write!(f, "vsock:{}:{port}", uds.display()),
            Self::Tcp { addr, .. } => write!(f, "tcp:{addr}"),
        }
    }
}

/// How long calls may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From the first dial to the agent's greeting, over all endpoints.
    pub dial: Duration,
    /// For a call with one answer, and for a command to be started.
    pub call: Duration,
    /// For a guest to give a sign of life: one that is silent longer is taken for dead, and every call
    /// to it ends.
    pub silence: Duration,
}

impl Default for Deadlines {
    /// 5 s to dial, 10 s to answer, 5 s of silence.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { dial: seconds(5), call: seconds(10), silence: seconds(5) }
    }
}
