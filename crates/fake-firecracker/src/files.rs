//! The host's files and devices that Firecracker opens, and what it says where it cannot.

use crate::{refusal::Refusal, version::Version};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::fd::AsRawFd as _,
    path::Path,
};

/// Opens a log, metrics or serial file for appending. Before 1.14 it must be there.
pub(crate) fn open_output(path: &Path, version: Version) -> io::Result<File> {
    OpenOptions::new().append(true).create(version >= Version::V1_14).open(path)
}

/// Opens the file that the serial console goes to, which must be there.
pub(crate) fn open_serial(path: &Path) -> Result<File, Refusal> {
    OpenOptions::new().append(true).open(path).map_err(|error| {
        Refusal::bad_request(format!(
            "Start microvm error: Failed to create device manager: Error with EventFd: {error}"
        ))
    })
}

/// Opens a kernel or an initrd.
pub(crate) fn open_boot_file(path: &Path, says: &str) -> Result<File, Refusal> {
    File::open(path)
        .map_err(|error| Refusal::bad_request(format!("Boot source error: {says}{error}")))
}

/// Whether a kernel image is one that this version can load.
pub(crate) fn check_kernel(path: &Path, version: Version) -> Result<(), Refusal> {
    const ELF: [u8; 4] = *b"\x7fELF";
    /// Where the boot protocol of x86 has its magic, and what it is (`Documentation/arch/x86/boot.rst`).
    const BZIMAGE_AT: usize = 0x202;
    const BZIMAGE: [u8; 4] = *b"HdrS";
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(0x206).read_to_end(&mut head));
    let elf = head.starts_with(&ELF);
    let bzimage = head.get(BZIMAGE_AT..).is_some_and(|rest| rest.starts_with(&BZIMAGE));
    if read.is_ok() && (elf || (bzimage && version >= Version::NEXT)) {
        return Ok(());
    }
    Err(Refusal::bad_request(
        "Start microvm error: System configuration error: Cannot load kernel due to invalid memory \
         configuration or invalid kernel image: Kernel Loader: failed to load ELF kernel image: \
         Kernel Loader: Invalid Elf magic number",
    ))
}

/// Opens a drive as the guest is to use it. The error is the device's own.
pub(crate) fn open_drive(path: &Path, read_only: bool) -> Result<File, String> {
    OpenOptions::new().read(true).write(!read_only).open(path).map_err(|error| {
        let path = path.display();
        format!("Virtio backend error: Error manipulating the backing file: {error} {path}")
    })
}

/// Attaches to a TAP, making it where it is missing and this process may.
pub(crate) fn open_tap(name: &str) -> Result<File, Refusal> {
    let refused = |error: String| {
        Refusal::bad_request(format!(
            "Network config error: Could not create the network device: Open tap device failed: {error}"
        ))
    };
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(|error| refused(format!("Couldn't open /dev/net/tun: {error}")))?;
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(refused("Invalid interface name".to_owned()));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes the ifreq it is given, which outlives the call.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if answer == 0 {
        return Ok(device);
    }
    let error = io::Error::last_os_error();
    Err(refused(format!(
        "Error while creating ifreq structure: {error}. Invalid TUN/TAP Backend provided by {name}. \
         Check our documentation on setting up the network devices."
    )))
}
