//! What to ask of Firecracker so that a guest boots: decided before anything is started.
//!
//! ```text
//! HostFacts ┐
//! FirecrackerVersion ┤
//! KernelFacts ┼─► plan() ─► Plan: program arguments, API calls, expected devices, agent, reasons
//! TemplateFacts ┤      └──► PlanError: why it cannot boot, and what to do
//! PlanRequest ┘
//! ```
//! [`plan`] is pure: it reads no file, knows no clock, and the same values give the same [`Plan`].
//! What a plan says can be printed and compared; each choice carries its [`Reason`]. It must never
//! start anything, and never let through what is known not to boot.

mod call;
mod devices;
mod draft;
mod error;
mod guest;
mod kernel_args;
mod machine;
mod request;
mod transport;
mod version;

pub use call::{
    ApiCall, Balloon, BootSource, CacheType, Drive, Entropy, HugePages, MachineConfig, Method,
    NetworkInterface, RateLimiter, TokenBucket, Vsock,
};
pub use error::PlanError;
pub use request::{
    BalloonRequest, Confinement, Console, CpuVendor, DiskRequest, HostFacts, InitramfsFacts,
    KernelFiles, Netns, NetworkRequest, PlanRequest, RateLimits, Start, TemplateFacts,
    TransportChoice, VsockRequest,
};
pub use version::{Feature, FirecrackerVersion, KnownBad};

use draft::Draft;
use guest::Guest;

use aetherium_model::{kernel::KernelFacts, resources::VirtioTransport};
use serde::Serialize;
use std::{fmt, net::SocketAddr, path::PathBuf};

/// How to start one VM. Pure data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The Firecracker it is made for.
    pub firecracker: FirecrackerVersion,
    /// How the guest reaches its devices.
    pub transport: VirtioTransport,
    /// Firecracker's own arguments, but for the API socket and the id, which whoever starts it adds.
    pub program_args: Vec<String>,
    /// What the guest's kernel is told; Firecracker appends to it, see [`Plan::appended_args`].
    pub kernel_args: String,
    /// What Firecracker will append to `kernel_args` by itself.
    pub appended_args: Vec<String>,
    /// The API calls, in order, between the start of Firecracker and `InstanceStart`.
    pub calls: Vec<ApiCall>,
    /// What the guest will see of its devices.
    pub devices: Vec<GuestDevice>,
    /// How the agent will be reached, best first; never empty.
    pub agent: Vec<AgentTransport>,
    /// Whether `SendCtrlAltDel` can end the guest; without a keyboard driver it is not heard.
    pub hears_ctrl_alt_del: bool,
    /// Files that Firecracker opens or makes, as it and as the host names them.
    pub files: Vec<SharedFile>,
    /// Defects of this version that this VM can meet.
    pub warnings: Vec<KnownBad>,
    /// Each choice, and why it was made.
    pub reasons: Vec<Reason>,
}

/// A device, as the guest will name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuestDevice {
    /// Its id in Firecracker's API.
    pub id: String,
    /// Its name in the guest, such as `/dev/vda` or `eth0`.
    pub guest_name: String,
    /// What it is for.
    pub purpose: &'static str,
}

/// A way to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "transport", rename_all = "snake_case")]
pub enum AgentTransport {
    /// Through Firecracker's Unix socket: connect, `CONNECT <port>\n`, `OK <n>\n`.
    Vsock {
        /// The socket, as the host names it.
        uds: PathBuf,
        /// The guest's port.
        port: u32,
    },
    /// TCP to the guest's address, from inside the network namespace of its TAP.
    Tcp {
        /// The namespace.
        netns: Netns,
        /// The guest's address and port.
        address: SocketAddr,
    },
}

/// A file that Firecracker uses, under both its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SharedFile {
    /// The name on the host: the source of what must be put in place for [`FileUse::Read`] and
    /// [`FileUse::Write`], and the place itself for the rest.
    pub host: PathBuf,
    /// The name that Firecracker is given: one without a directory, in the jail's root or in the run
    /// directory, where Firecracker runs.
    pub vmm: PathBuf,
    /// What Firecracker does with it.
    pub usage: FileUse,
}

/// What Firecracker does with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileUse {
    /// Reads it: it must be there.
    Read,
    /// Reads and writes it: it must be there.
    Write,
    /// Appends to it: it must be made, empty and writable, before Firecracker is told of it.
    Append,
    /// Makes it; it must not be there before.
    Create,
}

/// A choice, and why it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// What was to choose.
    pub topic: Topic,
    /// What was chosen.
    pub chosen: String,
    /// Why.
    pub why: String,
}

/// What there is to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// PCI or MMIO.
    Transport,
    /// Which kernel file.
    Kernel,
    /// What finds the root filesystem.
    Root,
    /// Arguments of the kernel.
    KernelArgs,
    /// Where the console goes, and how much is printed on it.
    Console,
    /// Memory and its pages.
    Memory,
    /// Virtual CPUs and what they can do.
    Cpu,
    /// Disks.
    Disks,
    /// The network interface.
    Network,
    /// The virtio socket.
    Vsock,
    /// How the agent is reached.
    Agent,
    /// The balloon.
    Balloon,
    /// Entropy.
    Entropy,
    /// Rate limits.
    RateLimits,
    /// Firecracker's log and metrics.
    Logs,
    /// The jailer.
    Jail,
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transport => "transport",
            Self::Kernel => "kernel",
            Self::Root => "root",
            Self::KernelArgs => "kernel args",
            Self::Console => "console",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Disks => "disks",
            Self::Network => "network",
            Self::Vsock => "vsock",
            Self::Agent => "agent",
            Self::Balloon => "balloon",
            Self::Entropy => "entropy",
            Self::RateLimits => "rate limits",
            Self::Logs => "logs",
            Self::Jail => "jail",
        })
    }
}

/// Plans how to start a VM.
///
/// # Errors
/// [`PlanError`]: what was asked for cannot boot, why, and what to do about it.
pub fn plan(
    host: &HostFacts,
    firecracker: FirecrackerVersion,
    kernel: &KernelFacts,
    template: &TemplateFacts,
    request: &PlanRequest,
) -> Result<Plan, PlanError> {
    let guest = Guest::new(kernel, template);
    let mut draft = Draft::begin(host, firecracker, guest, template, request)?;
    draft.jail();
    draft.logs();
    draft.console();
    draft.machine()?;
    draft.disks()?;
    draft.network()?;
    draft.vsock()?;
    draft.entropy();
    draft.balloon()?;
    draft.limits();
    draft.boot_source()?;
    draft.keyboard();
    draft.finish()
}

#[cfg(test)]
mod tests;
