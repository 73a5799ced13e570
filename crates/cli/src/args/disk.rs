//! The grammar of `aetherium ws disk`.

use aetherium_model::{Name, resources::DiskMib};
use clap::Subcommand;
use std::path::PathBuf;

/// Verbs on workspaces' disks.
#[derive(Debug, Subcommand)]
pub(crate) enum DiskCommand {
    /// Show its size, what it takes of the host, and its snapshots.
    Show {
        /// The workspace's name or id.
        workspace: String,
    },
    /// Keep the disk as it is now, under a name. A VM that runs stands still meanwhile.
    Snapshot {
        /// The workspace's name or id.
        workspace: String,
        /// The snapshot's name.
        name: Name,
    },
    /// Make the disk what it was when a snapshot was taken; not while a VM has it.
    Restore {
        /// The workspace's name or id.
        workspace: String,
        /// The snapshot's name.
        name: Name,
    },
    /// Remove a snapshot.
    RemoveSnapshot {
        /// The workspace's name or id.
        workspace: String,
        /// The snapshot's name.
        name: Name,
    },
    /// Give the disk more room; not while a VM has it.
    Grow {
        /// The workspace's name or id.
        workspace: String,
        /// What it is to have, in MiB.
        size_mib: DiskMib,
    },
    /// Write the disk to a file: a tar archive of one sparse ext4 image.
    #[command(after_help = "\
Example:
  aetherium ws disk export demo demo.tar && tar -xf demo.tar   makes disk.ext4, with its holes")]
    Export {
        /// The workspace's name or id.
        workspace: String,
        /// The file, which must not be there yet.
        file: PathBuf,
    },
}
