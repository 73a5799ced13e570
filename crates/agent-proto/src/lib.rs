//! The contract between a host and the agent in its guest.
//!
//! Owns every format the two sides exchange: the RPC service ([`rpc`], with the `rpc` feature), the
//! one-line JSON protocol ([`line`]), the guest's boot configuration ([`config`]), and the lines an
//! init writes to the console ([`console`]). Types here are values: this crate does no I/O, starts
//! no task and knows no transport beyond its name.
//!
//! The RPC is Connect over HTTP/2. On a Unix socket or vsock a connection is trusted; over TCP each
//! request carries `authorization: Bearer <token>`, and the first one without it ends the
//! connection. A first byte of `{` selects the line protocol instead.

pub mod config;
pub mod console;
pub mod files;
mod hello;
pub mod line;
pub mod ports;
mod process;
mod refusal;
#[cfg(feature = "rpc")]
pub mod rpc;
mod spec;
pub mod system;
mod token;

pub use config::GuestConfig;
pub use hello::{AgentTransport, Hello, ProtocolVersion};
pub use process::{
    ExitReport, ExitStatus, ProcessInfo, ProcessSelector, SpawnErrorKind, StreamOffsets,
    UnknownSpawnErrorKind,
};
pub use refusal::{Refusal, RefusalKind};
pub use spec::{
    DEFAULT_KILL_GRACE_MS, ExecSpec, Life, ProcessLimits, Program, Stdio, Terminal, TerminalSize,
};
pub use token::{InvalidToken, Token};

/// The port the agent listens on, over vsock and TCP alike.
pub const AGENT_PORT: u16 = 9999;

/// The protocol version this build speaks.
pub const PROTOCOL: ProtocolVersion = ProtocolVersion { major: 1, minor: 1 };
