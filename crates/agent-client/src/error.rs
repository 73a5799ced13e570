//! What can go wrong between a host and an agent.

use std::time::Duration;

use aetherium_agent_proto::rpc::refusal;
use aetherium_agent_proto::{
    AgentTransport, ProtocolVersion, Refusal, RefusalKind, SpawnErrorKind,
};
use connectrpc::{ConnectError, ErrorCode};

/// A call to an agent that did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The VM this client belongs to is over.
    #[error("the VM ended while its agent was asked: {reason}; start a VM to try again")]
    VmEnded {
        /// What was given to [`crate::AgentClient::close`].
        reason: String,
    },
    /// No endpoint answered in time.
    #[error(
        "no agent answered within {} ms ({attempts}); check that the guest booted and its agent \
         listens, the console log tells", .after.as_millis()
    )]
    Unreachable {
        /// How long it was tried.
        after: Duration,
        /// Each endpoint and how it failed last.
        attempts: String,
    },
    /// The agent does not accept the token.
    #[error("the agent at {endpoint} refused the token; the VM was started with another one")]
    Unauthorized {
        /// Where.
        endpoint: String,
    },
    /// The agent speaks another protocol.
    #[error(
        "the agent speaks protocol {theirs}, this host {ours}; rebuild the VM's template with this \
         release's agent"
    )]
    Incompatible {
        /// The host's version.
        ours: ProtocolVersion,
        /// The agent's version.
        theirs: ProtocolVersion,
    },
    /// The agent is older than what was asked of it. It was not asked.
    #[error(
        "`{call}` needs an agent of protocol {needs}, and this one speaks {speaks}; upgrade it, or \
         rebuild the VM's template with this release's agent"
    )]
    Unsupported {
        /// Which call.
        call: &'static str,
        /// The oldest protocol that has it.
        needs: ProtocolVersion,
        /// The agent's.
        speaks: ProtocolVersion,
    },
    /// The connection broke while a call was under way.
    #[error(
        "the connection to the agent over {transport} was lost ({detail}); a command under way was \
         killed in the guest, or the guest is gone"
    )]
    ConnectionLost {
        /// Over which transport.
        transport: AgentTransport,
        /// What the connection said.
        detail: String,
    },
    /// The agent was there and did not answer in time.
    #[error("the agent did not answer `{call}` within {} ms; the guest may be overloaded", .after.as_millis())]
    DeadlineExceeded {
        /// Which call.
        call: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The guest could not start the command.
    #[error("{detail}")]
    Spawn {
        /// Why.
        kind: SpawnErrorKind,
        /// What happened and with which value, in the agent's words.
        detail: String,
    },
    /// The process is not, or no longer, there.
    #[error("{detail}")]
    NoSuchProcess {
        /// Which one, in the agent's words.
        detail: String,
    },
    /// Somebody else has what there is one of: a process's starter's place, or its stdin.
    #[error("{detail}")]
    Taken {
        /// What, in the agent's words.
        detail: String,
    },
    /// The agent does not take the program it was given in place of its own. It goes on as it was.
    #[error("the agent was not upgraded: {detail}")]
    UpgradeRefused {
        /// Why.
        detail: String,
    },
    /// The process closed its stdin, or ended, before it took all input.
    #[error("the process takes no more input: {detail}")]
    StdinClosed {
        /// What the agent said.
        detail: String,
    },
    /// The guest could not, or would not, do what was asked of a file, a port or itself.
    #[error("{detail}")]
    Refused {
        /// Why.
        kind: RefusalKind,
        /// What happened and with which value, in the agent's words.
        detail: String,
    },
    /// The agent answered something else than the protocol allows, or refused.
    #[error("the agent answered `{call}` with {code}: {detail}")]
    Agent {
        /// Which call.
        call: &'static str,
        /// The wire's code.
        code: String,
        /// What it said.
        detail: String,
    },
}

impl AgentError {
    /// A stable code for programs and logs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::VmEnded { .. } => "vm_ended",
            Self::Unreachable { .. } => "agent_unreachable",
            Self::Unauthorized { .. } => "agent_unauthorized",
            Self::Incompatible { .. } => "agent_incompatible",
            Self::Unsupported { .. } => "agent_unsupported",
            Self::ConnectionLost { .. } => "agent_connection_lost",
            Self::DeadlineExceeded { .. } => "agent_deadline_exceeded",
            Self::Spawn { kind, .. } => kind.code(),
            Self::NoSuchProcess { .. } => "no_such_process",
            Self::Taken { .. } => "process_taken",
            Self::UpgradeRefused { .. } => "agent_upgrade_refused",
            Self::StdinClosed { .. } => "stdin_closed",
            Self::Refused { kind, .. } => kind.code(),
            Self::Agent { .. } => "agent_protocol_error",
        }
    }

    /// Whether a command asked for by the failed call may have run in the guest. If not, it is safe
    /// to ask again.
    #[must_use]
    pub fn may_have_started(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Unauthorized { .. }
            | Self::Incompatible { .. }
            | Self::Unsupported { .. }
            | Self::Taken { .. }
            | Self::UpgradeRefused { .. }
            | Self::Spawn { .. }
            | Self::NoSuchProcess { .. } => false,
            Self::VmEnded { .. }
            | Self::ConnectionLost { .. }
            | Self::DeadlineExceeded { .. }
            | Self::StdinClosed { .. }
            | Self::Refused { .. }
            | Self::Agent { .. } => true,
        }
    }

    /// Reads a failed call.
    pub(crate) fn from_wire(
        call: &'static str,
        endpoint: &str,
        transport: AgentTransport,
        error: &ConnectError,
    ) -> Self {
        if let Some(Refusal { kind, detail }) = refusal(error) {
            return Self::Refused { kind, detail };
        }
        let detail = error.message.clone().unwrap_or_else(|| error.to_string());
        match error.code {
            ErrorCode::Unauthenticated => Self::Unauthorized { endpoint: endpoint.to_owned() },
            ErrorCode::NotFound => Self::NoSuchProcess { detail },
            ErrorCode::AlreadyExists => Self::Taken { detail },
            ErrorCode::FailedPrecondition => Self::StdinClosed { detail },
            // The library says `internal` when a stream ends without its closing message.
            ErrorCode::Unavailable
            | ErrorCode::Canceled
            | ErrorCode::Aborted
            | ErrorCode::Unknown
            | ErrorCode::Internal => Self::ConnectionLost { transport, detail },
            code => Self::Agent { call, code: code.as_str().to_owned(), detail },
        }
    }
}
