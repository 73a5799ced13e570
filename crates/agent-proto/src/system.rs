//! A guest as a machine: how busy it is, who it is, what it keeps secret.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::config::GuestNet;

/// Where secrets lie in a guest: a file system in memory of their own.
pub const SECRETS_DIR: &str = "/run/aetherium/secrets";
/// The longest secret, in bytes.
pub const MAX_SECRET_BYTES: usize = 1024 * 1024;
/// The fewest bytes of entropy that make a generator unpredictable.
pub const MIN_ENTROPY_BYTES: usize = 32;
/// The most bytes of entropy in one call.
pub const MAX_ENTROPY_BYTES: usize = 512;

/// How busy and how full a guest is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metrics {
    /// Since the kernel booted.
    pub uptime: Duration,
    /// Processors.
    pub cpu: CpuMetrics,
    /// Memory.
    pub memory: MemoryMetrics,
    /// The root file system.
    pub disk: DiskMetrics,
    /// Processes that exist.
    pub processes: u64,
    /// Threads of all of them.
    pub threads: u64,
    /// Network interfaces but the loopback.
    pub interfaces: Vec<InterfaceMetrics>,
    /// The agent's own resident memory, in bytes.
    pub agent_resident_bytes: u64,
}

/// Processors, added up. Times are since boot.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CpuMetrics {
    /// How many are in use.
    pub online: u32,
    /// Time at work.
    pub busy: Duration,
    /// Time without work, or waiting for a disk.
    pub idle: Duration,
    /// Time the host took.
    pub steal: Duration,
    /// Tasks that run or wait, averaged over 1, 5 and 15 minutes.
    pub load: [f64; 3],
}

/// Memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryMetrics {
    /// All the kernel has.
    pub total_bytes: u64,
    /// What programs could still get.
    pub available_bytes: u64,
    /// Cached file content.
    pub cached_bytes: u64,
    /// All swap.
    pub swap_total_bytes: u64,
    /// Unused swap.
    pub swap_free_bytes: u64,
}

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskMetrics {
    /// Its size.
    pub total_bytes: u64,
    /// What ordinary users can still write.
    pub available_bytes: u64,
    /// Files it can hold.
    pub total_inodes: u64,
    /// Files that can still be made.
    pub available_inodes: u64,
}

/// A network interface, since it came up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InterfaceMetrics {
    /// Its name, as in `eth0`.
    pub name: String,
    /// Bytes it received.
    pub received_bytes: u64,
    /// Bytes it sent.
    pub sent_bytes: u64,
    /// Packets it received.
    pub received_packets: u64,
    /// Packets it sent.
    pub sent_packets: u64,
    /// Packets that failed, both ways.
    pub errors: u64,
    /// Packets that were dropped, both ways.
    pub dropped: u64,
}

/// Who a guest is. What is absent stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MachineIdentity {
    /// Its host name.
    pub hostname: Option<String>,
    /// The address of `eth0`, in place of any it had.
    pub network: Option<GuestNet>,
}

/// The name of a secret: a file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretName(String);

/// A text that is no name of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no name of a secret; give a file name of at most 255 bytes, without `/` and control \
     characters, that does not begin with a dot"
)]
pub struct InvalidSecretName(String);

impl SecretName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = InvalidSecretName;

    /// Names that begin with a dot are kept for files that are not complete.
    fn from_str(text: &str) -> Result<Self, InvalidSecretName> {
        let fits = (1..=255).contains(&text.len());
        let plain =
            !text.starts_with('.') && !text.contains(|it: char| it == '/' || it.is_control());
        if fits && plain {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidSecretName(text.to_owned()))
        }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secrets_name_cannot_leave_its_directory() {
        for name in ["", ".", "..", ".hidden", "a/b", "/a", "a\0", "a\n", &"x".repeat(256)] {
            assert_eq!(name.parse::<SecretName>(), Err(InvalidSecretName(name.to_owned())));
        }
        assert_eq!("API_KEY.pem".parse::<SecretName>().unwrap().as_str(), "API_KEY.pem");
    }
}
