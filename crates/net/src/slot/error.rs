//! What can go wrong with a slot, and its conversion to a [`Fault`].

use super::VethRange;
use aetherium_model::{Code, Fault};
use std::{io, net::Ipv4Addr, path::PathBuf, time::Duration};

/// Why a slot could not be made, listed or released.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The process may not make network namespaces and interfaces.
    #[error("this process may not make network namespaces: it lacks {missing}")]
    NotPrivileged {
        /// The capabilities it lacks.
        missing: String,
    },
    /// The program that lays firewall rules is not there.
    #[error("the program {program:?} was not found")]
    NftMissing {
        /// What was looked for.
        program: PathBuf,
    },
    /// The kernel or `nft` refused the rules; nothing of them holds.
    #[error("nft refused the rules of {of}: {message}")]
    NftRefused {
        /// Whose rules.
        of: String,
        /// What it said.
        message: String,
    },
    /// The range between host and slots is part of a network that the host reaches otherwise.
    #[error("the range {range} for slots overlaps the host's route to {network}/{prefix}")]
    RangeTaken {
        /// The range.
        range: VethRange,
        /// The route's network.
        network: Ipv4Addr,
        /// The length of the route's prefix.
        prefix: u8,
    },
    /// Every number is taken.
    #[error("all {most} slots of {range} are taken")]
    Exhausted {
        /// The range.
        range: VethRange,
        /// How many slots it has.
        most: u32,
    },
    /// The host does not forward, so that a guest with egress would reach nothing.
    #[error("this host does not forward IPv4 packets (net.ipv4.ip_forward is 0)")]
    ForwardingOff,
    /// The kernel refused to make, change, list or remove something over netlink.
    #[error("cannot {action} {what}: {source}")]
    Netlink {
        /// What was tried.
        action: &'static str,
        /// On what.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A file, namespace or device could not be used.
    #[error("cannot {action} {path:?}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A step did not end.
    #[error("could not {action} within {waited:?}")]
    Deadline {
        /// What was tried.
        action: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The thread that does the work is gone: a defect of our own.
    #[error("the thread that was to {action} ended without an answer")]
    ThreadLost {
        /// What was tried.
        action: &'static str,
    },
}

impl NetError {
    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    pub(super) fn netlink(
        action: &'static str,
        what: impl Into<String>,
    ) -> impl FnOnce(rtnetlink::Error) -> Self {
        let what = what.into();
        move |error| Self::Netlink { action, what, source: kernel_error(error) }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotPrivileged { .. } => {
                "run as root for networking by namespaces; without it guests are reached over vsock"
            }
            Self::NftMissing { .. } => "install nftables",
            Self::NftRefused { .. } => "update nftables and the host's kernel (5.2 or later)",
            Self::RangeTaken { .. } => {
                "choose another range for slots, one the host has no route to"
            }
            Self::Exhausted { .. } => "delete VMs, or choose a larger range for slots",
            Self::ForwardingOff => {
                "sysctl -w net.ipv4.ip_forward=1, and write it to /etc/sysctl.d to keep it"
            }
            Self::Netlink { .. } | Self::Io { .. } => {
                "see whether the kernel has veth, tun and network namespaces, and the host's log"
            }
            Self::Deadline { .. } => "see whether the host is overloaded, then try again",
            Self::ThreadLost { .. } => "report it with the server's log of this moment",
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Exhausted { .. } => Code::NoCapacity,
            Self::Deadline { .. } => Code::DeadlineExceeded,
            Self::ThreadLost { .. } => Code::Internal,
            _ => Code::NetworkFailed,
        }
    }
}

impl From<NetError> for Fault {
    fn from(error: NetError) -> Self {
        Self::new(error.code(), error.to_string()).remedy(error.remedy())
    }
}

/// The kernel's own word where there is one, so that callers can tell "not there" from the rest.
pub(super) fn kernel_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}
