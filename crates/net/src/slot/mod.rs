//! A slot: everything that is a VM's own in the host's network, and the pool that slots come from.
//!
//! ```text
//!   host                          │ namespace aet4x7k2m-1             │ guest
//!                                 │                                   │
//!   aet4x7k2m-1 198.19.0.5 ═══ veth ═══ up0 198.19.0.6   tap0 ─── cable ─── eth0 172.16.0.2
//!   table inet aet4x7k2m          │ table inet aetherium 172.16.0.1   │
//!   masquerade to the internet    │ what the guest may say 172.16.0.3 │
//! ```
//!
//! The host reaches any port of the guest at the slot's address ([`Slot::reach`]): the namespace
//! redirects it. The guest reaches what its [`NetworkMode`] allows: with `isolated` nothing but its
//! gateway's answer to a ping, with `egress` every address that is globally reachable. Other slots,
//! the host, link-local and private addresses are closed in both. Names are resolved by 172.16.0.3,
//! which the slot redirects to the host's resolvers, so that a guest need not know them.
//!
//! # After a crash
//! All that a slot is can be found by name: its claim, its namespace's file, its link. [`Slots::orphans`]
//! lists what no journal knows. See `docs/decisions` for the reasons.

mod claims;
mod config;
mod error;
mod firewall;
mod links;
mod namespace;
mod pool;
mod preflight;
mod tap;

pub use config::{Prefix, SlotsConfig, VethRange, host_resolvers};
pub use error::NetError;
pub use pool::{Orphan, Slots};
pub use preflight::preflight;

use crate::GuestNet;
use aetherium_model::{VmId, resources::NetworkMode};
use serde::{Deserialize, Serialize};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

/// What a VM has of the host's network. A value, to be kept in the VM's journal: dropping it
/// releases nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Its number in the pool.
    pub number: u32,
    /// Whose it is.
    pub vm_id: VmId,
    /// What its guest may reach.
    pub mode: NetworkMode,
    /// The file that names its network namespace, such as `/run/netns/aet4x7k2m-1`. The VMM is to
    /// run in it.
    pub netns: PathBuf,
    /// The name of the TAP inside the namespace.
    pub tap: String,
    /// The name of the veth's end on the host.
    pub host_link: String,
    /// The host's address on the veth.
    pub host_address: Ipv4Addr,
    /// The slot's address on the veth: what the host sends there reaches the guest.
    pub address: Ipv4Addr,
    /// What the guest is to be told.
    pub guest: GuestNet,
}

impl Slot {
    /// The name of the TAP inside the namespace, the same in each.
    pub const TAP: &'static str = links::TAP;

    /// Where the host reaches `port` of the guest, over TCP or UDP.
    ///
    /// Any process of the host can: what listens there must ask who is calling, as the agent does.
    pub fn reach(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.address, port))
    }
}
