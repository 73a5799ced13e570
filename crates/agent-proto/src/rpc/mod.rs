//! The generated RPC service, and the ways between its messages and this crate's types.
//!
//! Generated code stays behind this module: the rest of the project speaks in domain types.

mod convert;
mod event;
pub mod files;
mod outgoing;
mod ports;
mod refusal;
mod system;

pub use event::OutgoingEvent;
pub use outgoing::{CarriesData, Outgoing};
pub use refusal::{REFUSAL_TYPE, refusal};
pub use system::InvalidNetwork;

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

/// The most bytes of output one event carries.
pub const MAX_CHUNK_BYTES: usize = 128 * 1024;
/// The largest message either side takes, in bytes: a start with a full environment, or a chunk.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// The most streams a connection may have at once.
pub const MAX_STREAMS: u32 = 1536;
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
