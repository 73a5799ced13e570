//! Why a plan is refused: what was asked for is known not to boot.

use super::{CpuVendor, Feature, FirecrackerVersion};
use aetherium_model::{
    Code, Fault, kernel::KernelOption, resources::VirtioTransport, template::NamedCpuTemplate,
};

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Firecracker is older than this driver speaks to.
    #[error(
        "Firecracker {version} is older than {oldest}, the oldest that is supported",
        oldest = FirecrackerVersion::OLDEST
    )]
    FirecrackerTooOld {
        /// The version.
        version: FirecrackerVersion,
    },
    /// A feature was asked for that came later.
    #[error("Firecracker {version} has no {feature}: it came with {since}", since = feature.since())]
    FeatureMissing {
        /// What was asked for.
        feature: Feature,
        /// The version.
        version: FirecrackerVersion,
    },
    /// No way to the agent.
    #[error("the VM has neither a virtio socket nor a network: nothing could reach its agent")]
    NoAgentTransport,
    /// The kernel cannot use the transport.
    #[error("kernel {release} cannot use virtio over {transport}: it lacks {}", list(missing))]
    TransportMissing {
        /// The kernel.
        release: String,
        /// The transport.
        transport: VirtioTransport,
        /// What it lacks, of which each one is needed.
        missing: Vec<KernelOption>,
    },
    /// The kernel lacks a driver that this VM cannot do without.
    #[error("kernel {release} has no {option}, which it needs {purpose}")]
    DriverMissing {
        /// The kernel.
        release: String,
        /// The driver.
        option: KernelOption,
        /// What for.
        purpose: &'static str,
    },
    /// An argument turns off what the VM runs on.
    #[error("the kernel argument {arg:?} {conflict}")]
    KernelArg {
        /// The argument.
        arg: String,
        /// What it does.
        conflict: &'static str,
    },
    /// All arguments together are too long.
    #[error("the kernel's command line has {bytes} bytes, more than the {max} that fit")]
    KernelArgsTooLong {
        /// How long it would be, with what Firecracker appends.
        bytes: usize,
        /// What fits.
        max: usize,
    },
    /// The kernel is packed in a way that this Firecracker cannot load.
    #[error("Firecracker {version} loads uncompressed ELF kernels alone, and this is a bzImage")]
    BzImage {
        /// The version.
        version: FirecrackerVersion,
    },
    /// The CPU template is for other CPUs.
    #[error("the CPU template {template:?} is not for the CPUs of this host ({vendor:?})")]
    CpuTemplate {
        /// The template.
        template: NamedCpuTemplate,
        /// Who made this host's CPUs.
        vendor: CpuVendor,
    },
    /// The memory is too small.
    #[error(
        "{has_mib} MiB of memory are less than the {needs_mib} MiB that kernel and initramfs need"
    )]
    MemoryTooSmall {
        /// What was asked for.
        has_mib: u64,
        /// What is needed.
        needs_mib: u64,
    },
    /// The balloon would take all memory.
    #[error("a balloon of {balloon_mib} MiB leaves too little of {memory_mib} MiB of memory")]
    BalloonTooLarge {
        /// The balloon.
        balloon_mib: u32,
        /// The memory.
        memory_mib: u32,
    },
    /// Too few huge pages, or a size that they do not fit.
    #[error("the memory of {memory_mib} MiB cannot be had in huge pages: {why}")]
    HugePages {
        /// The memory.
        memory_mib: u32,
        /// What is wrong.
        why: String,
    },
    /// There is no root filesystem.
    #[error("there is no disk and no initramfs: the kernel would have no root file system")]
    NoRoot,
    /// A value that Firecracker's API does not take.
    #[error("{value:?} is no {what}: {why}")]
    BadValue {
        /// What it should be.
        what: &'static str,
        /// The value.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

fn list(options: &[KernelOption]) -> String {
    let each: Vec<String> = options.iter().map(ToString::to_string).collect();
    each.join(", ")
}

impl PlanError {
    /// The stable code.
    pub const fn code(&self) -> Code {
        match self {
            Self::FirecrackerTooOld { .. } => Code::DriverUnavailable,
            _ => Code::CannotBoot,
        }
    }

    /// What to do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::FirecrackerTooOld { .. } => "install Firecracker 1.16.1 or later",
            Self::FeatureMissing { .. } => "install that version, or do without",
            Self::NoAgentTransport => "allow the virtio socket, or give the VM a network",
            Self::TransportMissing { .. } => {
                "use the other transport, or a kernel that has these options"
            }
            Self::DriverMissing { .. } => {
                "use a kernel that has it built in, or an initramfs with its module"
            }
            Self::KernelArg { .. } => {
                "remove it from the template's or the request's kernel arguments"
            }
            Self::KernelArgsTooLong { .. } => "give fewer kernel arguments",
            Self::BzImage { .. } => {
                "build the template again, which unpacks its kernel, or install Firecracker 1.17"
            }
            Self::CpuTemplate { .. } => "use a custom CPU template, or none",
            Self::MemoryTooSmall { .. } => "give the VM more memory",
            Self::BalloonTooLarge { .. } => "give a smaller balloon or more memory",
            Self::HugePages { .. } => {
                "reserve pages in /proc/sys/vm/nr_hugepages, or use ordinary pages"
            }
            Self::NoRoot => "give the VM a root disk or an initramfs",
            Self::BadValue { .. } => "give a value of that form",
        }
    }
}

impl From<PlanError> for Fault {
    fn from(error: PlanError) -> Self {
        Self::new(error.code(), error.to_string()).remedy(error.remedy())
    }
}
