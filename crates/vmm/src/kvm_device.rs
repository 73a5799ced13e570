//! The KVM device: whether it opens, speaks the interface that VMMs know, and makes a VM.
//!
//! A VM made here has no memory and no CPU, and ends with its file. That it can be made is no proof
//! that guests run: some hosts offer KVM and then run nothing.

use rustix::{
    fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd},
    io::Errno,
    ioctl::{self, Ioctl, IoctlOutput, Opcode},
};
use std::{
    ffi::c_void,
    fs::OpenOptions,
    io,
    path::{Path, PathBuf},
};

const DEVICE: &str = "/dev/kvm";
/// `KVMIO` of Linux.
const KVM: u8 = 0xae;
/// The one version of the interface there has been since 2007; see `Documentation/virt/kvm/api.rst`.
const API_VERSION: i32 = 12;

/// Why no VM can be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KvmError {
    /// There is no device.
    #[error("{device:?} does not exist: the kernel has no KVM, or the CPU no virtualization")]
    Missing {
        /// The device.
        device: PathBuf,
    },
    /// It does not open.
    #[error("{device:?} does not open: {source}")]
    Open {
        /// The device.
        device: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It speaks another interface.
    #[error("KVM speaks version {version} of its interface, not {API_VERSION}")]
    Version {
        /// The version.
        version: i32,
    },
    /// It is no KVM, or makes no VM.
    #[error("KVM refuses to {action}: {source}")]
    Refused {
        /// What was asked.
        action: &'static str,
        /// What it answered.
        source: io::Error,
    },
}

impl KvmError {
    /// What to do about it.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Missing { .. } => {
                "enable virtualization in the firmware, or nested virtualization in the cloud's \
                 machine type, and load kvm_intel or kvm_amd"
            }
            Self::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "join the group that owns /dev/kvm, or run as root"
            }
            Self::Open { .. } => "load kvm_intel or kvm_amd",
            Self::Version { .. } => "use a Linux kernel",
            Self::Refused { .. } => {
                "see the host's kernel log; another hypervisor may hold the CPU's virtualization"
            }
        }
    }
}

/// Makes a VM and lets it go.
pub(crate) fn try_vm() -> Result<(), KvmError> {
    try_vm_of(Path::new(DEVICE))
}

fn try_vm_of(device: &Path) -> Result<(), KvmError> {
    let opened = OpenOptions::new().read(true).write(true).open(device);
    let kvm = opened.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => KvmError::Missing { device: device.to_owned() },
        _ => KvmError::Open { device: device.to_owned(), source },
    })?;
    let refused = |action| move |error: Errno| KvmError::Refused { action, source: error.into() };
    let version = api_version(kvm.as_fd()).map_err(refused("tell its version"))?;
    if version != API_VERSION {
        return Err(KvmError::Version { version });
    }
    create_vm(kvm.as_fd()).map(drop).map_err(refused("make a VM"))
}

fn api_version(kvm: BorrowedFd<'_>) -> Result<i32, Errno> {
    // SAFETY: KVM_GET_API_VERSION takes no argument and touches no memory of ours; another device
    // refuses the number.
    unsafe { ioctl::ioctl(kvm, Plain::<0x00>) }
}

fn create_vm(kvm: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    // SAFETY: KVM_CREATE_VM takes a number, here 0 for the default type, and touches no memory of
    // ours. The device has told KVM's version, so the number means this.
    let fd = unsafe { ioctl::ioctl(kvm, Plain::<0x01>) }?;
    // SAFETY: on success the answer is a new file descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A request of KVM's that takes the number 0 and answers with a number.
struct Plain<const NUMBER: u8>;

// SAFETY: no memory is passed in or out, and the answer is passed on as it is.
unsafe impl<const NUMBER: u8> Ioctl for Plain<NUMBER> {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        ioctl::opcode::none(KVM, NUMBER)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> Result<i32, Errno> {
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_or_not_kvms_is_told_apart() {
        let missing = try_vm_of(Path::new("/dev/no-kvm")).unwrap_err();
        assert!(matches!(missing, KvmError::Missing { .. }), "{missing}");
        let other = try_vm_of(Path::new("/dev/null")).unwrap_err();
        assert!(matches!(other, KvmError::Refused { .. }), "{other}");
        assert!(!other.remedy().is_empty());
    }
}
