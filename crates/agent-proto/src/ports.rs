//! TCP ports of a guest.

use std::net::IpAddr;

/// A port that is listened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListeningPort {
    /// The address it is bound to; an unspecified one means all.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The user that listens.
    pub uid: u32,
}

/// A change of what is listened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortEvent {
    /// It is listened on now.
    Opened(ListeningPort),
    /// It no longer is.
    Closed(ListeningPort),
    /// Everything of the time before the call has been told.
    CaughtUp,
}
