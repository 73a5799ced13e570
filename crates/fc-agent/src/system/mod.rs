//! The guest as a machine: measured, told the time, given entropy, an identity and secrets.
//!
//! Owns what init and verbs have in common: the network's calls, the files of an identity, the
//! machine's end. What changes the machine is for an agent that owns it: one that shares its
//! machine, as with the process driver, must never touch clock, network or mounts.

mod clock;
mod entropy;
pub(crate) mod identity;
mod metrics;
pub(crate) mod net;
mod secrets;
mod service;

use aetherium_agent_proto::{Refusal, RefusalKind};

pub(crate) use service::SystemVerbs;

/// Whose machine the agent runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Machine {
    /// Its own, to configure.
    Own,
    /// One it shares with others.
    Shared,
}

impl Machine {
    /// Refuses what would change a shared machine.
    fn expect_own(self, what: &str) -> Result<(), Refusal> {
        match self {
            Self::Own => Ok(()),
            Self::Shared => {
                let detail = format!(
                    "the agent shares its machine and does not {what}; an agent in a guest of its \
                     own is started as its init or with --machine"
                );
                Err(Refusal::new(RefusalKind::NotItsMachine, detail))
            }
        }
    }
}
