//! Who the agent says it is: protocol version, boot, transports.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A protocol version. Equal majors can talk; a higher minor only adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProtocolVersion {
    /// Raised when a meaning changes.
    pub major: u32,
    /// Raised when something is added.
    pub minor: u32,
}

impl ProtocolVersion {
    /// Whether a peer of version `other` can be talked to.
    #[must_use]
    pub fn is_compatible_with(self, other: Self) -> bool {
        self.major == other.major
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// How host and agent are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentTransport {
    /// A virtio socket; trusted, as only the host reaches it.
    Vsock,
    /// TCP; every connection proves the token.
    Tcp,
    /// A Unix socket of an agent on the same machine; trusted by its file mode.
    Unix,
}

impl AgentTransport {
    /// The stable name: `vsock`, `tcp` or `unix`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vsock => "vsock",
            Self::Tcp => "tcp",
            Self::Unix => "unix",
        }
    }

    /// The transport of that name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Vsock, Self::Tcp, Self::Unix].into_iter().find(|it| it.as_str() == name)
    }
}

impl fmt::Display for AgentTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The agent's answer to a greeting; also its health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The protocol the agent speaks.
    pub protocol: ProtocolVersion,
    /// The agent's own version.
    pub agent_version: String,
    /// The kernel's boot id: it changes when the guest boots anew, not when it resumes.
    pub boot_id: String,
    /// Whether the agent is the guest's PID 1.
    pub is_init: bool,
    /// Milliseconds since the guest's kernel booted, now.
    pub uptime_ms: u64,
    /// The same clock when the agent's first line ran.
    pub started_uptime_ms: u64,
    /// The same clock when the agent began to listen.
    pub listening_uptime_ms: u64,
    /// The transports that listen.
    pub transports: Vec<AgentTransport>,
    /// How often the agent has replaced its own program.
    pub generation: u32,
    /// Why its last attempt to do so came to nothing, if it did.
    pub upgrade_failure: Option<String>,
}

impl Hello {
    /// How long the agent took from its first line to listening.
    #[must_use]
    pub fn init_time(&self) -> Duration {
        Duration::from_millis(self.listening_uptime_ms.saturating_sub(self.started_uptime_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transport_has_one_name_everywhere() {
        for transport in [AgentTransport::Vsock, AgentTransport::Tcp, AgentTransport::Unix] {
            let json = serde_json::to_string(&transport).unwrap();
            assert_eq!(json, format!("\"{transport}\""));
            assert_eq!(AgentTransport::from_name(transport.as_str()), Some(transport));
        }
    }

    #[test]
    fn only_the_major_version_separates_peers() {
        let ours = ProtocolVersion { major: 1, minor: 0 };
        assert!(ours.is_compatible_with(ProtocolVersion { major: 1, minor: 9 }));
        assert!(!ours.is_compatible_with(ProtocolVersion { major: 2, minor: 0 }));
    }
}
