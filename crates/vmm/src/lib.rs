//! Virtual machine monitors behind one trait: start a VM, watch it, adopt it after a restart of the
//! host process, end it, and say in words why it did not boot.
//!
//! # The way of a VM
//! ```text
//! choose() ─► Arc<dyn Vmm> ─ launch(LaunchSpec) ─► Arc<dyn Machine> ─ wait() ─► VmmExit
//!                   │                                  │   │
//!                   │                     footprint() ─┘   └─ kill(deadline)
//!                   └─ adopt(Footprint) ─► the same Machine, in a later life of the host process
//! ```
//! A [`Vmm`] is a driver: [`Firecracker`], [`Qemu`] or [`AgentProcess`];
//! [`Simulated`] models one. A [`Machine`] is one running VM. Its
//! [`Footprint`] is all that a later host process needs to find it again; whoever owns the VM
//! writes it to disk before relying on it. The processes of a machine outlive the host process, and
//! dropping a `Machine` ends nothing: only [`Machine::kill`] does.
//!
//! Until its agent answers, race [`diagnose::watch_boot`] against it: it resolves, with the reason,
//! once the boot is lost, and never otherwise. When a VM has ended, [`diagnose::explain`] turns the
//! [`diagnose::Evidence`] of console, VMM log and exit status into a [`Fault`].
//!
//! # What this crate owns
//! The VMM's command line, its processes, and the sockets and logs inside the VM's run directory.
//! It must never signal a process it cannot prove to be its own (see [`ProcessRef`]), never change
//! an image, and never keep a VM's state: that is the caller's.
//!
//! [`Fault`]: aetherium_model::Fault

mod choose;
pub mod diagnose;
mod error;
pub mod firecracker;
mod footprint;
mod held;
mod host;
mod kvm;
mod kvm_device;
mod launch;
mod machine;
mod needs;
mod process;
mod procfs;
mod qemu;
mod simulated;
mod snapshot;
mod spawn;
mod strays;
mod supervise;
mod usage;

pub use choose::{Chosen, DriverConfig, choose};
pub use error::VmmError;
pub use firecracker::Firecracker;
pub use footprint::{Accelerator, AgentAddress, Footprint, JailFootprint, ProcessRef, Role};
pub use launch::{Boot, Disk, GuestKernel, LaunchSpec, ProbeGuest, VsockChoice};
pub use machine::{Machine, Vmm, VmmExit};
pub use process::AgentProcess;
pub use qemu::Qemu;
pub use simulated::{Model, Simulated, Spread};
pub use snapshot::{
    FileDigest, Mismatch, SNAPSHOT_FORMAT, SnapshotBase, SnapshotContent, SnapshotDisk,
    SnapshotExtent, SnapshotFiles, SnapshotGround, SnapshotKind, SnapshotManifest, SnapshotVmm,
};
pub use strays::{Stray, strays};
