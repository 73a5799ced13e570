//! The host's side of the guest agent.
//!
//! ```text
//! AgentClient ── dial (vsock, 50 ms later tcp) ──► Connection ── HTTP/2 ──► agent
//!      ├─ exec, attach ──► Process ── next ──► stdout, stderr, exited
//!      │                      ├─ stdin ──► write, close
//!      │                      └─ signaller ──► signal, resize
//!      ├─ files ──► read, write, list, watch, tar, …
//!      ├─ ports ──► connect ──► Tunnel;  watch ──► opened, closed
//!      └─ system ─► metrics, clock, entropy, identity, secrets
//! ```
//!
//! One [`AgentClient`] belongs to one VM. It keeps one multiplexed connection for as long as somebody
//! uses it, and a little longer, and dials again when that is gone, over whatever worked before. Every call has a deadline or ends with the
//! connection, which a keep-alive declares dead after [`Deadlines::silence`].
//!
//! Owns dialling, the choice of transport and the mapping of wire errors. Must never run a command
//! twice: a call that may have reached the guest is not sent again; [`AgentError::may_have_started`]
//! tells the caller which failures those are.

mod capture;
mod client;
mod connection;
mod dial;
mod endpoint;
mod error;
mod files;
mod ports;
mod process;
mod stdin;
mod system;
mod upgrade;
mod upload;

pub use aetherium_agent_proto::files::{
    Attributes, ByteRange, FileEvent, FileInfo, FileMode, Ownership, Placement, Reach, WriteOptions,
};
pub use aetherium_agent_proto::{
    AGENT_PORT, AgentTransport, ExecSpec, ExitReport, ExitStatus, Hello, Life, ProcessInfo,
    ProcessLimits, ProcessSelector, Program, RefusalKind, SpawnErrorKind, Stdio, StreamOffsets,
    Terminal, TerminalSize, Token,
};
pub use capture::{CollectError, Output, collect};
pub use client::AgentClient;
pub use dial::HEAD_START;
pub use endpoint::{Deadlines, Endpoint};
pub use error::AgentError;
pub use files::{FileReader, FileWriter, Files, Listing, TarReader, TarWriter, Watch};
pub use ports::{PortWatch, Ports, Tunnel, TunnelReader, TunnelWriter};
pub use process::{Process, ProcessEvent, Role, Signaller};
pub use stdin::Stdin;
pub use system::System;
