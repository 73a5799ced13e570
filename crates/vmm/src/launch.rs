//! What a VM is to be started with. Values only. Every path is absolute, as the VMM runs in a
//! directory of its own and is found again by processes that run elsewhere.

use crate::{SnapshotKind, VmmError, firecracker::plan::TransportChoice};
use aetherium_model::{
    VmId,
    kernel::KernelFacts,
    resources::{DriverKind, NetworkMode, Resources},
    template::CpuTemplate,
    tuning::{HugePages, Tuning},
};
use aetherium_net::Slot;
use std::path::{Path, PathBuf};

/// Everything a driver needs to start one VM.
#[derive(Debug, Clone)]
pub struct LaunchSpec {
    /// The VM.
    pub vm_id: VmId,
    /// A directory that exists, with mode 0700, for this VM alone. Sockets, `console.log` and
    /// `vmm.log` go there. Its path must be short: a Unix socket's may have 107 bytes.
    pub run_dir: PathBuf,
    /// Its size.
    pub resources: Resources,
    /// What else it takes of this host.
    pub tuning: Tuning,
    /// What runs in it.
    pub boot: Boot,
    /// What it may reach.
    pub network: NetworkMode,
    /// Whether it gets a virtio socket.
    pub vsock: VsockChoice,
    /// How its devices are attached, where the driver has a choice.
    pub transport: TransportChoice,
    /// The snapshots it is made ready for: nothing that the driver cannot save, and for diffs the
    /// written pages noted.
    pub snapshots: Option<SnapshotKind>,
    /// Its own part of the host's network; absent where it gets none, or a user-mode one.
    pub slot: Option<Slot>,
    /// A directory of its own in the host's memory, for snapshots that must not reach a disk; absent
    /// where it has none.
    pub volatile: Option<PathBuf>,
}

impl LaunchSpec {
    /// Whether written pages are noted, which diff snapshots need.
    pub(crate) fn tracks_dirty_pages(&self) -> bool {
        self.snapshots == Some(SnapshotKind::Diff)
    }

    /// Checks that a driver has means for all that is asked for: QEMU gives its guests balloons and no
    /// more, a plain process has nothing of the kind.
    pub(crate) fn check_tuning(&self, driver: DriverKind) -> Result<(), VmmError> {
        let Tuning { balloon_mib, huge_pages, limits } = self.tuning;
        let wants_balloon = balloon_mib.is_some_and(|mib| mib > 0);
        let verb = match driver {
            DriverKind::Firecracker => return Ok(()),
            DriverKind::Process if wants_balloon => "give a guest a balloon",
            _ if huge_pages.is_some_and(|pages| pages != HugePages::None) => {
                "make a guest's memory of huge pages"
            }
            _ if limits.limits_anything() => "limit a guest's I/O",
            _ => return Ok(()),
        };
        Err(VmmError::Unsupported { driver, verb, why: "it has no means for that".to_owned() })
    }

    /// Checks that no path depends on where this process runs.
    pub(crate) fn check_paths(&self) -> Result<(), VmmError> {
        let mut paths: Vec<&Path> = vec![&self.run_dir];
        paths.extend(self.volatile.as_deref());
        match &self.boot {
            Boot::Kernel { kernel, initrd, disks, .. } => {
                paths.extend([kernel.image.as_path(), initrd.as_path()]);
                paths.extend(kernel.elf.as_deref());
                paths.extend(disks.iter().map(|disk| disk.path.as_path()));
            }
            Boot::Agent { binary, token_file } => paths.extend([binary.as_path(), token_file]),
            Boot::Nothing => {}
        }
        match paths.into_iter().find(|path| !path.is_absolute()) {
            Some(path) => Err(VmmError::BadValue {
                value: path.display().to_string(),
                why: "the path is not absolute",
            }),
            None => Ok(()),
        }
    }
}

/// What a VM runs.
#[derive(Debug, Clone)]
pub enum Boot {
    /// A kernel with an initramfs that finds the root filesystem by itself.
    Kernel {
        /// The kernel.
        kernel: GuestKernel,
        /// The initramfs.
        initrd: PathBuf,
        /// The disks, the root first.
        disks: Vec<Disk>,
    },
    /// The agent as a plain process of the host: the process driver only.
    Agent {
        /// The agent's binary.
        binary: PathBuf,
        /// The file that holds the VM's token.
        token_file: PathBuf,
    },
    /// Nothing: the simulated driver only.
    Nothing,
}

/// A guest's kernel, and what belongs to it alone.
#[derive(Debug, Clone)]
pub struct GuestKernel {
    /// The image.
    pub image: PathBuf,
    /// The same kernel as an uncompressed ELF image, for VMMs that load no other; absent where the
    /// image is one, or where nobody made one.
    pub elf: Option<PathBuf>,
    /// What is known of it.
    pub facts: KernelFacts,
    /// Arguments after those the driver chooses.
    pub extra_args: Vec<String>,
    /// The modules that its initramfs loads, by name.
    pub modules: Vec<String>,
    /// What its CPUs are made to look like, where the VMM is Firecracker.
    pub cpu_template: Option<CpuTemplate>,
}

/// One block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The raw image.
    pub path: PathBuf,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// The serial number that the guest sees; at most 20 bytes, which is virtio-blk's limit.
    pub serial: String,
}

/// Whether a VM gets a virtio socket beside its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VsockChoice {
    /// When the host has what it takes; its lack never fails a VM.
    #[default]
    Auto,
    /// No.
    Off,
}

/// A guest that shows whether guests of its kernel run accelerated on this host: its init prints
/// the agent's probe line and powers off.
#[derive(Debug, Clone)]
pub struct ProbeGuest {
    /// The kernel that VMs will use.
    pub kernel: GuestKernel,
    /// SHA-256 of the image, in hexadecimal: the verdict is kept under it.
    pub kernel_sha256: String,
    /// The initramfs.
    pub initrd: PathBuf,
}
