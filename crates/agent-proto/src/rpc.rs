//! The generated RPC service, and the ways between its messages and this crate's types.
//!
//! Generated code stays behind this module: the rest of the project speaks in domain types.

pub mod files;
mod outgoing;
mod ports;
mod refusal;
mod system;

use bytes::{BufMut as _, Bytes, BytesMut};
use connectrpc::{CodecFormat, ConnectError, Encodable, EncodedBody};

use crate::{
    AgentTransport, ExecSpec, ExitReport, ExitStatus, Hello, ProcessInfo, ProtocolVersion,
};

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::redundant_clone,
    clippy::semicolon_if_nothing_returned,
    clippy::manual_let_else,
    clippy::large_futures,
    clippy::undocumented_unsafe_blocks
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/agent_rpc.rs"));
}

/// Messages and services of the wire, as generated.
pub use generated::aetherium::agent::v1 as wire;
pub use outgoing::{CarriesData, Outgoing};
pub use refusal::{REFUSAL_TYPE, refusal};
pub use system::InvalidNetwork;

/// The most bytes of output one event carries.
pub const MAX_CHUNK_BYTES: usize = 128 * 1024;
/// The largest message either side takes, in bytes: a start with a full environment, or a chunk.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// The most streams a connection may have at once.
pub const MAX_STREAMS: u32 = 512;
/// What a host lets one unread stream of a guest hold, in bytes.
pub const HOST_STREAM_WINDOW: u32 = 1024 * 1024;
/// What a guest lets one unread stream of a host hold, in bytes.
pub const GUEST_STREAM_WINDOW: u32 = 256 * 1024;
/// The most bytes of one HTTP/2 frame.
pub const MAX_FRAME_BYTES: u32 = 1024 * 1024;

/// The window of a whole connection: so wide that stalled streams never use up what others need.
#[must_use]
pub const fn connection_window(stream_window: u32) -> u32 {
    stream_window * MAX_STREAMS
}

impl From<&Hello> for wire::HelloResponse {
    fn from(hello: &Hello) -> Self {
        Self {
            protocol_major: hello.protocol.major,
            protocol_minor: hello.protocol.minor,
            agent_version: hello.agent_version.clone(),
            boot_id: hello.boot_id.clone(),
            is_init: hello.is_init,
            uptime_ms: hello.uptime_ms,
            started_uptime_ms: hello.started_uptime_ms,
            listening_uptime_ms: hello.listening_uptime_ms,
            transports: hello.transports.iter().map(ToString::to_string).collect(),
            ..Self::default()
        }
    }
}

impl From<wire::HelloResponse> for Hello {
    /// Transports this build does not know are left out.
    fn from(hello: wire::HelloResponse) -> Self {
        let transports = hello.transports.iter().filter_map(|it| AgentTransport::from_name(it));
        Self {
            protocol: ProtocolVersion { major: hello.protocol_major, minor: hello.protocol_minor },
            boot_id: hello.boot_id,
            is_init: hello.is_init,
            uptime_ms: hello.uptime_ms,
            started_uptime_ms: hello.started_uptime_ms,
            listening_uptime_ms: hello.listening_uptime_ms,
            transports: transports.collect(),
            agent_version: hello.agent_version,
        }
    }
}

impl From<ExecSpec> for wire::StartRequest {
    fn from(spec: ExecSpec) -> Self {
        Self {
            argv: spec.argv,
            env: spec.env.into_iter().collect(),
            cwd: spec.cwd,
            user: spec.user,
            timeout_ms: spec.timeout_ms,
            kill_grace_ms: spec.kill_grace_ms,
            stdin: spec.stdin,
            tag: spec.tag,
            ..Self::default()
        }
    }
}

impl From<wire::StartRequest> for ExecSpec {
    fn from(request: wire::StartRequest) -> Self {
        Self {
            argv: request.argv,
            env: request.env.into_iter().collect(),
            cwd: request.cwd,
            user: request.user,
            timeout_ms: request.timeout_ms,
            kill_grace_ms: request.kill_grace_ms,
            stdin: request.stdin,
            tag: request.tag,
        }
    }
}

impl From<ProcessInfo> for wire::ProcessEntry {
    fn from(info: ProcessInfo) -> Self {
        Self {
            pid: info.pid,
            argv: info.argv,
            cwd: info.cwd,
            user: info.user,
            tag: info.tag,
            started_uptime_ms: info.started_uptime_ms,
            ..Self::default()
        }
    }
}

impl From<wire::ProcessEntry> for ProcessInfo {
    fn from(entry: wire::ProcessEntry) -> Self {
        Self {
            pid: entry.pid,
            argv: entry.argv,
            cwd: entry.cwd,
            user: entry.user,
            tag: entry.tag,
            started_uptime_ms: entry.started_uptime_ms,
        }
    }
}

impl From<&ExitReport> for wire::Exited {
    fn from(report: &ExitReport) -> Self {
        use wire::__buffa::oneof::exited::Status;
        let status = match report.status {
            ExitStatus::Code(code) => Some(Status::Code(code)),
            ExitStatus::Signal(signal) => Some(Status::Signal(signal)),
            ExitStatus::Timeout => None,
        };
        Self {
            status,
            timed_out: report.status == ExitStatus::Timeout,
            wall_ms: report.wall_ms,
            user_ms: report.user_ms,
            sys_ms: report.sys_ms,
            max_rss_kib: report.max_rss_kib,
            ..Self::default()
        }
    }
}

impl From<wire::Exited> for ExitReport {
    fn from(exited: wire::Exited) -> Self {
        use wire::__buffa::oneof::exited::Status;
        let status = match exited.status {
            _ if exited.timed_out => ExitStatus::Timeout,
            Some(Status::Code(code)) => ExitStatus::Code(code),
            Some(Status::Signal(signal)) => ExitStatus::Signal(signal),
            // Zero is not sent for a plain code.
            None => ExitStatus::Code(0),
        };
        Self {
            status,
            wall_ms: exited.wall_ms,
            user_ms: exited.user_ms,
            sys_ms: exited.sys_ms,
            max_rss_kib: exited.max_rss_kib,
        }
    }
}

/// An event of a process on its way out: output is handed over by reference, never copied.
#[derive(Debug, Clone)]
pub enum OutgoingEvent {
    /// Bytes of stdout.
    Stdout(Bytes),
    /// Bytes of stderr.
    Stderr(Bytes),
    /// Anything small.
    Message(Box<wire::ProcessEvent>),
}

impl OutgoingEvent {
    /// The process runs under this id.
    #[must_use]
    pub fn started(pid: u32) -> Self {
        let started = wire::Started { pid, ..wire::Started::default() };
        Self::message(wire::__buffa::oneof::process_event::Event::Started(Box::new(started)))
    }

    /// The process could not be started.
    #[must_use]
    pub fn failed(code: &str, detail: &str) -> Self {
        let failed = wire::SpawnFailed {
            code: code.to_owned(),
            detail: detail.to_owned(),
            ..wire::SpawnFailed::default()
        };
        Self::message(wire::__buffa::oneof::process_event::Event::Failed(Box::new(failed)))
    }

    /// The process ended.
    #[must_use]
    pub fn exited(report: &ExitReport) -> Self {
        Self::message(wire::__buffa::oneof::process_event::Event::Exited(Box::new(report.into())))
    }

    fn message(event: wire::__buffa::oneof::process_event::Event) -> Self {
        Self::Message(Box::new(wire::ProcessEvent {
            event: Some(event),
            ..wire::ProcessEvent::default()
        }))
    }

    /// Writes the event as the segments of one `ProcessEvent` message.
    fn segments(&self) -> Vec<Bytes> {
        use buffa::Message as _;
        // A bytes field is its tag (number << 3 | 2), a varint length, and the bytes.
        match self {
            Self::Stdout(data) => vec![bytes_field_head(3, data.len()), data.clone()],
            Self::Stderr(data) => vec![bytes_field_head(4, data.len()), data.clone()],
            Self::Message(message) => vec![message.encode_to_bytes()],
        }
    }
}

fn bytes_field_head(number: u8, mut len: usize) -> Bytes {
    let mut head = BytesMut::with_capacity(11);
    head.put_u8(number << 3 | 2);
    while len >= 0x80 {
        head.put_u8((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    head.put_u8(len as u8);
    head.freeze()
}

impl Encodable<wire::ProcessEvent> for OutgoingEvent {
    fn encode(&self, codec: CodecFormat) -> Result<Bytes, ConnectError> {
        self.encode_segments(codec).map(EncodedBody::into_contiguous)
    }

    fn encode_segments(&self, codec: CodecFormat) -> Result<EncodedBody, ConnectError> {
        match codec {
            CodecFormat::Proto => Ok(EncodedBody::from_segments(self.segments())),
            _ => Err(ConnectError::unimplemented("the agent speaks protobuf, not JSON")),
        }
    }
}
