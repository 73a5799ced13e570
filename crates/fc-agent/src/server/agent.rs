//! What every connection shares: who the agent is, its children, its end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aetherium_agent_proto::{AgentTransport, Hello, PROTOCOL, Token};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use super::limits::Limits;
use crate::clock;
use crate::exec::Children;
use crate::serve::Role;
use crate::system::Machine;
use crate::upgrade::Candidate;

/// What does not change about this agent.
pub(crate) struct Identity {
    boot_id: String,
    role: Role,
    started_uptime_ms: u64,
    listening_uptime_ms: u64,
    transports: Vec<AgentTransport>,
    generation: u32,
}

impl Identity {
    /// An agent that begins to listen now.
    pub(crate) fn new(
        role: Role,
        started_uptime_ms: u64,
        transports: Vec<AgentTransport>,
        generation: u32,
    ) -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        Self {
            boot_id: boot_id.unwrap_or_default().trim().to_owned(),
            role,
            started_uptime_ms,
            listening_uptime_ms: clock::uptime_ms(),
            transports,
            generation,
        }
    }
}

/// How the agent meets callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doors {
    Open,
    /// Callers are asked to go, and nobody new is let in for the moment.
    Leaving,
    /// The agent ends.
    Closed,
}

/// The agent, as its connections see it.
pub(crate) struct Agent {
    identity: Identity,
    children: Arc<Children>,
    token: Option<Token>,
    machine: Machine,
    limits: Limits,
    stop_wanted: watch::Sender<bool>,
    doors: watch::Sender<Doors>,
    upgrades: mpsc::Sender<Candidate>,
    upgrade_failure: Mutex<Option<String>>,
}

impl Agent {
    /// The one who serves takes `upgrades`.
    pub(crate) fn new(
        identity: Identity,
        children: Arc<Children>,
        token: Option<Token>,
        machine: Machine,
        upgrades: mpsc::Sender<Candidate>,
    ) -> Self {
        Self {
            identity,
            children,
            token,
            machine,
            limits: Limits::new(),
            stop_wanted: watch::Sender::new(false),
            doors: watch::Sender::new(Doors::Open),
            upgrades,
            upgrade_failure: Mutex::default(),
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
            generation: identity.generation,
            upgrade_failure: self.upgrade_failure().clone(),
        }
    }

    pub(crate) fn children(&self) -> &Arc<Children> {
        &self.children
    }

    pub(super) fn machine(&self) -> Machine {
        self.machine
    }

    pub(crate) fn limits(&self) -> &Limits {
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

    /// Says how callers are met from here on.
    pub(crate) fn set_doors(&self, doors: Doors) {
        self.doors.send_replace(doors);
    }

    pub(super) fn doors(&self) -> watch::Receiver<Doors> {
        self.doors.subscribe()
    }

    /// A caller brings the agent's next program. Gives it back while another one waits.
    pub(super) fn want_upgrade(&self, candidate: Candidate) -> Result<(), Candidate> {
        self.upgrade_failure().take();
        self.upgrades.try_send(candidate).map_err(TrySendError::into_inner)
    }

    pub(crate) fn note_upgrade_failure(&self, failure: String) {
        *self.upgrade_failure() = Some(failure);
    }

    fn upgrade_failure(&self) -> MutexGuard<'_, Option<String>> {
        self.upgrade_failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
