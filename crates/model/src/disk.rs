//! The disk of a workspace: what is told of it, and what can be asked of it.

use crate::{Name, Timestamp, VmId, WorkspaceId, resources::DiskMib};
use serde::{Deserialize, Serialize};

/// A workspace's disk, which outlives its VMs. Each VM of the workspace gets it, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WorkspaceDisk {
    /// Whose it is.
    pub workspace_id: WorkspaceId,
    /// How much the guest may write, in MiB; beyond that its commands get "no space left on device".
    pub size_mib: DiskMib,
    /// What it takes of the host's disk, in bytes.
    pub used_bytes: u64,
    /// The VM that has it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<VmId>,
    /// What the memory of its hibernated VM takes beside it, in bytes; 0 without one.
    #[serde(default)]
    pub hibernation_bytes: u64,
    /// Its snapshots, by name.
    pub snapshots: Vec<DiskSnapshot>,
}

/// A workspace's disk as it was at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DiskSnapshot {
    /// Its name, which no other snapshot of this disk has.
    pub name: Name,
    /// The disk's size then, in MiB.
    pub size_mib: DiskMib,
    /// What it takes of the host's disk, in bytes; where the host's filesystem shares blocks, what it
    /// shares with the disk counts for both.
    pub used_bytes: u64,
    /// When it was taken.
    pub created_at: Timestamp,
}

/// Grows a workspace's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrowDisk {
    /// What it is to have in MiB: more than it has.
    pub size_mib: DiskMib,
}

/// Takes a snapshot of a workspace's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TakeDiskSnapshot {
    /// Its name, which no other snapshot of this disk has.
    pub name: Name,
}
