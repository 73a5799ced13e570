//! What kind of verb is asked for.

use super::Command;

impl Command {
    /// Whether the verb is a server, whose log is worth reading.
    pub(crate) const fn is_server(&self) -> bool {
        self.service().is_some()
    }

    /// Whether the verb asks a server, or itself, and shows the answer: it has nothing that would have to be
    /// ended in order.
    pub(crate) const fn only_asks(&self) -> bool {
        match self {
            Self::Exec(_)
            | Self::Ws { .. }
            | Self::Env { .. }
            | Self::Vm { .. }
            | Self::Task { .. }
            | Self::Events(_)
            | Self::Webhook { .. }
            | Self::Secret { .. }
            | Self::Project { .. }
            | Self::Tool { .. }
            | Self::Assistant { .. }
            | Self::Worker { verb: Some(_), .. }
            | Self::Status
            | Self::Top(_)
            | Self::Config { .. }
            | Self::Openapi
            | Self::Completion { .. } => true,
            Self::Up(_)
            | Self::Run(_)
            | Self::Template { .. }
            | Self::Kernel { .. }
            | Self::Host { .. }
            | Self::Gateway(_)
            | Self::Worker { verb: None, .. }
            | Self::Doctor(_)
            | Self::Migrate(_)
            | Self::Quickstart(_)
            | Self::Bench { .. } => false,
        }
    }

    /// The role's name in traces, where the verb is a server.
    pub(crate) const fn service(&self) -> Option<&'static str> {
        match self {
            Self::Up(_) => Some("aetherium"),
            Self::Gateway(_) => Some("aetherium-gateway"),
            Self::Worker { verb: None, .. } => Some("aetherium-worker"),
            _ => None,
        }
    }
}
