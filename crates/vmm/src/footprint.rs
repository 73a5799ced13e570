//! What a running VM leaves on its host: enough to find it again, and to never mistake it.
//!
//! Values only; written to a VM's journal by its owner and read back by [`crate::Vmm::adopt`].

use aetherium_model::{
    VmId,
    resources::{DriverKind, VirtioTransport},
};
use serde::{Deserialize, Serialize};
use std::{fmt, net::SocketAddr, path::PathBuf};

/// All that a later host process needs to adopt a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Footprint {
    /// The VM.
    pub vm_id: VmId,
    /// The driver that started it.
    pub driver: DriverKind,
    /// How its code runs.
    pub accelerator: Accelerator,
    /// Why it runs so, in a sentence.
    pub accelerator_reason: String,
    /// Its processes; the one whose end is the VM's end comes first.
    pub processes: Vec<ProcessRef>,
    /// Where its agent can be reached, best first.
    pub agent: Vec<AgentAddress>,
    /// What its kernel and init print.
    pub console: PathBuf,
    /// What the VMM and its helpers print.
    pub vmm_log: PathBuf,
    /// Sockets to remove with it.
    pub sockets: Vec<PathBuf>,
    /// The VMM's control socket; absent where it has none.
    #[serde(default)]
    pub control: Option<PathBuf>,
    /// How its devices are attached; absent where it has none.
    #[serde(default)]
    pub transport: Option<VirtioTransport>,
    /// What confines the VMM beside its own user; absent where nothing does.
    #[serde(default)]
    pub jail: Option<JailFootprint>,
    /// Its directory in the host's memory, see [`crate::LaunchSpec::volatile`].
    #[serde(default)]
    pub volatile: Option<PathBuf>,
    /// The size of the guest's memory in MiB; 0 for a plain process.
    pub memory_mib: u32,
    /// Bytes of memory that kernel and initramfs need to begin; 0 for a plain process.
    pub boot_needs_bytes: u64,
}

/// What a jailed VMM has on the host, which stays when it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailFootprint {
    /// The VMM's root directory. A process that has it as its root is this VM's.
    pub root: PathBuf,
    /// The cgroup that limits it.
    pub cgroup: Option<PathBuf>,
}

/// Where an agent listens, as the host reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "transport", rename_all = "snake_case", deny_unknown_fields)]
pub enum AgentAddress {
    /// A virtio socket behind a Unix socket: connect, send `CONNECT <port>\n`, read `OK <n>\n`.
    Vsock {
        /// The Unix socket.
        uds: PathBuf,
        /// The port in the guest.
        port: u32,
    },
    /// TCP; the caller proves the VM's token.
    Tcp {
        /// The host's end of the forward.
        addr: SocketAddr,
    },
    /// A plain Unix socket: the process driver only.
    Unix {
        /// The socket.
        path: PathBuf,
    },
}

/// How a VM's code runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// In hardware, by KVM.
    Kvm,
    /// Translated by QEMU.
    Tcg,
    /// As a plain process.
    None,
}

impl Accelerator {
    /// The accelerator's name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a process does for its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It runs the guest.
    Vmm,
    /// It carries the guest's virtio socket.
    VsockHelper,
    /// It is the agent itself.
    Agent,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vmm => "VMM",
            Self::VsockHelper => "vsock helper",
            Self::Agent => "agent",
        })
    }
}

/// A process, told apart from any later one with the same number by the time it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessRef {
    /// What it does.
    pub role: Role,
    /// Its number.
    pub pid: u32,
    /// Clock ticks between the host's boot and its start: field 22 of `/proc/<pid>/stat`, see
    /// proc(5).
    pub start_ticks: u64,
}
