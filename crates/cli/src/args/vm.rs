//! Arguments of VMs.

use super::{LimitArgs, ListArgs, PlacementArgs, PlanArgs, TuningArgs, parse::duration};
use aetherium_model::{
    Name, TemplateRef,
    resources::{DiskMib, MemoryMib, NetworkMode, Vcpus, VirtioTransport},
    vm::SnapshotKind,
};
use clap::{Args as ClapArgs, Subcommand};
use std::time::Duration;

/// What a VM is to be; the template's defaults where absent.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct VmArgs {
    /// The template to start from: NAME, NAME:TAG or NAME@sha256:DIGEST; `default` where nobody says.
    #[arg(long)]
    pub(crate) template: Option<TemplateRef>,
    /// Virtual CPUs.
    #[arg(long)]
    pub(crate) vcpus: Option<Vcpus>,
    /// Memory in MiB.
    #[arg(long, value_name = "MIB")]
    pub(crate) memory_mib: Option<MemoryMib>,
    /// Writable disk in MiB.
    #[arg(long, value_name = "MIB")]
    pub(crate) disk_mib: Option<DiskMib>,
    /// What it may reach: `isolated` or `egress`.
    #[arg(long)]
    pub(crate) network: Option<NetworkMode>,
    /// How its devices are attached: `pci` or `mmio`; as fits best where absent.
    #[arg(long)]
    pub(crate) transport: Option<VirtioTransport>,
    /// The snapshots it is made ready for: `full` (QEMU: without vsock) or `diff` (written pages are
    /// noted, too); as its template says where absent.
    #[arg(long, value_name = "KIND")]
    pub(crate) snapshots: Option<SnapshotKind>,
    #[command(flatten)]
    pub(crate) tuning: TuningArgs,
    #[command(flatten)]
    pub(crate) placement: PlacementArgs,
}

/// Verbs on VMs.
#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// Start one and wait until it runs.
    Create {
        /// End it after this time, whatever it does then, such as `2h`.
        #[arg(long, value_parser = duration, value_name = "TIME")]
        ttl: Option<Duration>,
        #[command(flatten)]
        vm: VmArgs,
    },
    /// Give one another time to live, counted from now; without one it lives as long as it likes.
    Ttl {
        /// Its id.
        vm: String,
        /// The time, such as `2h`.
        #[arg(value_parser = duration, value_name = "TIME")]
        ttl: Option<Duration>,
    },
    /// Print how Firecracker would be asked to start one, with the reason for each choice; starts nothing.
    Plan(PlanArgs),
    /// List those that have not ended.
    List {
        /// Also those that have.
        #[arg(short, long)]
        all: bool,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show one.
    #[command(visible_alias = "show")]
    Get {
        /// Its id.
        vm: String,
    },
    /// End one.
    Delete {
        /// Its id.
        vm: String,
    },
    /// Change, while it runs, how much of its memory it goes without and what its I/O is held to.
    #[command(after_help = "\
Examples:
  aetherium vm set VM --balloon-mib 128         128 MiB of its memory go back to the host
  aetherium vm set VM --disk-bandwidth 20M      each of its disks moves 20 MiB in a second
  aetherium vm set VM --disk-bandwidth 0        and as many as it can again")]
    Set {
        /// Its id.
        vm: String,
        /// Memory that the guest goes without, in MiB; 0 gives all of it back.
        #[arg(long, value_name = "MIB")]
        balloon_mib: Option<u32>,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Print what it uses: on the host, by its VMM's count, and by its guest's own.
    Metrics {
        /// Its id.
        vm: String,
    },
    /// Stop its CPUs; its memory is kept.
    Pause {
        /// Its id.
        vm: String,
    },
    /// Let a paused one go on.
    Resume {
        /// Its id.
        vm: String,
    },
    /// Take a snapshot of one, from which others can start.
    Snapshot {
        /// Its id.
        vm: String,
        /// The snapshot's name.
        name: Name,
        /// Write only what changed in memory since the VM's snapshot before, which stays needed. For
        /// a VM with `--snapshots diff`.
        #[arg(long)]
        diff: bool,
    },
    /// Start one from a snapshot and wait until it runs; template and size are the snapshot's.
    Restore {
        /// The snapshot's name.
        name: Name,
        #[command(flatten)]
        vm: VmArgs,
    },
    /// Print what its kernel and init wrote to the console.
    Console {
        /// Its id.
        vm: String,
    },
}
