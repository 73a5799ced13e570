//! How guests are addressed, and how the host reaches the agent inside.
//!
//! Owns the addressing plan ([`GuestNet`]) and user-mode networking ([`usernet`]): what a VMM is
//! told, and how the forwarded port is read back. It is pure: it opens no socket, and it must never
//! touch an interface of the machine.
//!
//! # Every guest sees the same network
//! Inside, each guest is [`GuestNet::COMMON`]: the same address, gateway, name server and MAC. That
//! is possible because no two guests ever share a link: each has a user-mode stack (or, later, a
//! network namespace) of its own. It is wanted because a memory snapshot holds the addresses of the
//! guest it was taken from: with one plan for all, a clone needs no rewriting and its open sockets
//! stay valid.

mod guest;
pub mod usernet;

pub use guest::{GuestNet, Mac};
