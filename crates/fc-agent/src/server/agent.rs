//! What every connection shares: who the agent is, its children, its end.

use std::sync::Arc;

use aetherium_agent_proto::{AgentTransport, Hello, PROTOCOL, Token};
use tokio::sync::watch;

use super::limits::Limits;
use crate::clock;
use crate::exec::Children;
use crate::serve::Role;
use crate::system::Machine;

/// What does not change about this agent.
pub(crate) struct Identity {
    boot_id: String,
    role: Role,
    started_uptime_ms: u64,
    listening_uptime_ms: u64,
    transports: Vec<AgentTransport>,
}

impl Identity {
    /// An agent that begins to listen now.
    pub(crate) fn new(role: Role, started_uptime_ms: u64, transports: Vec<AgentTransport>) -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        Self {
            boot_id: boot_id.unwrap_or_default().trim().to_owned(),
            role,
            started_uptime_ms,
            listening_uptime_ms: clock::uptime_ms(),
            transports,
        }
    }
}

/// The agent, as its connections see it.
pub(crate) struct Agent {
    identity: Identity,
    children: Arc<Children>,
    token: Option<Token>,
    machine: Machine,
    limits: Limits,
    stop_wanted: watch::Sender<bool>,
    stopped: watch::Sender<bool>,
}

impl Agent {
    pub(crate) fn new(
        identity: Identity,
        children: Arc<Children>,
        token: Option<Token>,
        machine: Machine,
    ) -> Self {
        Self {
            identity,
            children,
            token,
            machine,
            limits: Limits::new(),
            stop_wanted: watch::Sender::new(false),
            stopped: watch::Sender::new(false),
        }
    }

    pub(crate) fn hello(&self) -> Hello {
        let identity = &self.identity;
        Hello {
            protocol: PROTOCOL,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: identity.boot_id.clone(),
            is_init: identity.role == Role::Init,
            uptime_ms: clock::uptime_ms(),
            started_uptime_ms: identity.started_uptime_ms,
            listening_uptime_ms: identity.listening_uptime_ms,
            transports: identity.transports.clone(),
        }
    }

    pub(crate) fn children(&self) -> &Arc<Children> {
        &self.children
    }

    pub(super) fn machine(&self) -> Machine {
        self.machine
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether `candidate` proves knowledge of the token. Without a token nothing does.
    pub(super) fn is_token(&self, candidate: &str) -> bool {
        self.token.as_ref().is_some_and(|token| token.matches(candidate))
    }

    /// A caller wishes the agent to end.
    pub(super) fn want_stop(&self) {
        self.stop_wanted.send_replace(true);
    }

    /// Waits for such a wish.
    pub(crate) async fn stop_wanted(&self) {
        // The sender lives in `self`.
        let _ = self.stop_wanted.subscribe().wait_for(|wanted| *wanted).await;
    }

    /// From here on nothing new is accepted.
    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Waits for [`Agent::stop`].
    pub(super) async fn stopped(&self) {
        // The sender lives in `self`.
        let _ = self.stopped.subscribe().wait_for(|stopped| *stopped).await;
    }
}
