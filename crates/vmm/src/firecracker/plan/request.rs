//! What a plan is made from: facts of the host and the template, and what is asked for.

use super::call::{HugePages, RateLimiter};
use aetherium_model::{
    resources::{Resources, VirtioTransport},
    template::{CpuTemplate, KernelFormat},
};
use aetherium_net::{GuestNet, Slot};
use serde::Serialize;
use std::{fmt, path::PathBuf};

/// What the host has, as far as a plan depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// Who made its CPUs.
    pub cpu_vendor: CpuVendor,
    /// Huge pages of 2 MiB that nobody uses.
    pub free_huge_pages: u64,
}

/// Who made a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CpuVendor {
    /// Intel.
    Intel,
    /// AMD.
    Amd,
    /// Somebody else, or nobody knows.
    #[default]
    Other,
}

/// What a template brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateFacts {
    /// The kernel's files.
    pub kernel: KernelFiles,
    /// What the kernel starts.
    pub start: Start,
    /// Kernel arguments of the template, after those chosen here.
    pub kernel_args: Vec<String>,
    /// What the CPUs are made to look like; like the host's where absent.
    pub cpu: Option<CpuTemplate>,
}

/// A kernel on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFiles {
    /// The image as the template has it.
    pub image: PathBuf,
    /// How that is packed.
    pub format: KernelFormat,
    /// The same kernel as an uncompressed ELF image, where the first is none and somebody made one.
    pub elf: Option<PathBuf>,
}

/// What a kernel starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// An initramfs with the agent as `/init`, which finds its root by UUID.
    Initramfs(InitramfsFacts),
    /// The first disk is the root, and the agent is installed in it.
    Disk {
        /// The program to run as init; the kernel's own search where absent.
        init: Option<String>,
    },
}

/// An initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitramfsFacts {
    /// The archive.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// The modules inside, by name and without ending.
    pub modules: Vec<String>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanRequest {
    /// A directory for this VM alone: sockets and logs go there, but under the jailer.
    pub run_dir: PathBuf,
    /// Whether Firecracker sees the host's files or a jail's.
    pub confinement: Confinement,
    /// The size.
    pub resources: Resources,
    /// PCI, MMIO, or whichever fits.
    pub transport: TransportChoice,
    /// The disks, the root first.
    pub disks: Vec<DiskRequest>,
    /// The network interface; none where absent.
    pub network: Option<NetworkRequest>,
    /// The virtio socket; none where absent.
    pub vsock: Option<VsockRequest>,
    /// The balloon; none where absent.
    pub balloon: Option<BalloonRequest>,
    /// Whether the guest gets entropy from the host.
    pub entropy: bool,
    /// What the guest's I/O is held to.
    pub limits: RateLimits,
    /// The pages of the guest's memory.
    pub huge_pages: HugePages,
    /// Whether diff snapshots will be taken.
    pub track_dirty_pages: bool,
    /// How much the kernel prints.
    pub console: Console,
    /// Kernel arguments after those of the template.
    pub kernel_args: Vec<String>,
}

/// Where Firecracker runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confinement {
    /// As a plain process: it sees the host's files under their names.
    Plain,
    /// Under the jailer.
    Jailed {
        /// The jail's root directory on the host, such as `/srv/jailer/firecracker/<id>/root`.
        root: PathBuf,
    },
}

/// PCI, MMIO, or whichever fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportChoice {
    /// PCI where Firecracker and the kernel can, else MMIO.
    #[default]
    Auto,
    /// This one.
    Only(VirtioTransport),
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskRequest {
    /// The raw image.
    pub path: PathBuf,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// Its id in Firecracker's API: letters, digits and `_`.
    pub id: String,
    /// What it is for, in a word or two.
    pub purpose: &'static str,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRequest {
    /// The TAP device.
    pub tap: String,
    /// The network namespace it is in.
    pub netns: Netns,
    /// What the guest sees.
    pub guest: GuestNet,
}

impl NetworkRequest {
    /// The interface of a slot.
    pub fn of(slot: &Slot) -> Self {
        let netns = Netns::At { path: slot.netns.clone() };
        Self { tap: slot.tap.clone(), netns, guest: slot.guest }
    }

    /// The interface of a slot that nobody has taken yet.
    pub fn to_come() -> Self {
        let netns = Netns::AssignedAtStart;
        Self { tap: Slot::TAP.to_owned(), netns, guest: GuestNet::COMMON }
    }
}

/// A network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "namespace")]
pub enum Netns {
    /// The host's own.
    Host,
    /// The one that this file names.
    At {
        /// The file.
        path: PathBuf,
    },
    /// The one of the slot that the VM takes when it is started: which, is not known before.
    AssignedAtStart,
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host's own network"),
            Self::At { path } => path.display().fmt(f),
            Self::AssignedAtStart => f.write_str("a network namespace assigned at the start"),
        }
    }
}

/// A virtio socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VsockRequest {
    /// The guest's context id, 3 or more. Nothing but the guest sees it: Firecracker's sockets are
    /// files, so every VM may have the same.
    pub guest_cid: u32,
}

/// A balloon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalloonRequest {
    /// Its size at the start, in MiB: what the guest goes without.
    pub amount_mib: u32,
    /// Whether it gives memory back before the guest kills processes for it.
    pub deflate_on_oom: bool,
    /// How often the guest tells of its memory, in seconds; 0: never.
    pub stats_interval_s: u32,
}

/// What a guest's I/O is held to; unlimited where absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimits {
    /// Each disk.
    pub disk: Option<RateLimiter>,
    /// What the guest receives.
    pub net_rx: Option<RateLimiter>,
    /// What it sends.
    pub net_tx: Option<RateLimiter>,
    /// Entropy.
    pub entropy: Option<RateLimiter>,
}

/// How much the kernel prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Console {
    /// Warnings and errors: a serial port is slow.
    #[default]
    Quiet,
    /// Everything.
    Verbose,
}
