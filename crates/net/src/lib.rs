//! How guests are addressed, and how the host reaches the agent inside.
//!
//! Owns the addressing plan ([`GuestNet`]) and the two ways to give it to a guest: user-mode
//! networking inside the VMM ([`usernet`], pure values, no privilege) and a network namespace of the
//! VM's own ([`slot`], by root). Must never touch an interface, namespace or firewall table of the
//! host that does not bear its pool's prefix.
//!
//! # Every guest sees the same network
//! Inside, each guest is [`GuestNet::COMMON`]: the same address, gateway, name server and MAC. That
//! is possible because no two guests ever share a link: each has a user-mode stack or a network
//! namespace of its own. It is wanted because a memory snapshot holds the addresses of the
//! guest it was taken from: with one plan for all, a clone needs no rewriting and its open sockets
//! stay valid.

mod guest;
pub mod slot;
pub mod usernet;

pub use guest::{GuestNet, Mac};
pub use slot::{NetError, Orphan, Prefix, Slot, Slots, SlotsConfig};
