//! What a VM uses, as its host, its VMM and its guest count it. Values only.

use crate::Timestamp;
use serde::{Deserialize, Serialize};

/// What a VM uses now. Each part comes from whoever counts it, and is absent where nobody does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmMetrics {
    /// When it was read.
    pub taken_at: Timestamp,
    /// What its VMM costs the host.
    pub host: HostUsage,
    /// What its VMM counts.
    #[serde(flatten)]
    pub vmm: VmmMetrics,
    /// What its guest says of itself; absent while it is paused, or does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestUsage>,
}

/// What the processes of a VM cost the host, added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HostUsage {
    /// Processor time since their start, in milliseconds.
    pub cpu_ms: u64,
    /// Resident memory, the guest's included, in bytes.
    pub resident_bytes: u64,
    /// Threads.
    pub threads: u32,
}

/// What a VMM counts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmmMetrics {
    /// The balloon, where the VM has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon: Option<BalloonUsage>,
    /// All disks, added up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskUsage>,
    /// The network interface, where the VMM counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<NetUsage>,
    /// The VMM's own words, all of them, in its own form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub raw: Option<serde_json::Value>,
}

/// A balloon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BalloonUsage {
    /// What the guest is to go without, in MiB; absent where the VMM does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_mib: Option<u32>,
    /// What it goes without, in MiB; absent where it has not said yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual_mib: Option<u32>,
    /// What its programs could still get, in bytes, as the balloon's driver said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_bytes: Option<u64>,
}

/// Disks, since the VM's start. Where a VMM's own metrics were cut for their length, since then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DiskUsage {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Requests to read.
    pub reads: u64,
    /// Requests to write.
    pub writes: u64,
    /// How often a limit held a request back; absent where the VMM does not count it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<u64>,
}

/// A network interface, seen from the guest; since when, as for disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NetUsage {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// How often a limit held packets back, both ways.
    pub throttled: u64,
}

/// What a guest says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct GuestUsage {
    /// Since its kernel booted, in milliseconds.
    pub uptime_ms: u64,
    /// Processors in use.
    pub cpus: u32,
    /// Time that they were at work, added up, in milliseconds.
    pub cpu_busy_ms: u64,
    /// Time that the host took from them, in milliseconds.
    pub cpu_steal_ms: u64,
    /// Tasks that run or wait, averaged over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Memory that its kernel has, in bytes.
    pub memory_total_bytes: u64,
    /// Memory that programs could still get, in bytes.
    pub memory_available_bytes: u64,
    /// The size of its root file system, in bytes.
    pub disk_total_bytes: u64,
    /// What can still be written there, in bytes.
    pub disk_available_bytes: u64,
    /// Processes.
    pub processes: u64,
}
