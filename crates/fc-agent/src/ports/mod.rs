//! TCP ports of the guest: connections carried to them, and which of them are listened on.
//!
//! Owns each carried connection for as long as its call lives. Must never look at the guest's
//! sockets while nobody watches them.

mod listening;
mod proc_net;
mod service;
mod tunnel;

pub(crate) use service::PortVerbs;

/// How many parts of a stream wait for its reader, beside the one in hand.
const QUEUE: usize = 2;
