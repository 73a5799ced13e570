//! The TAP device: a guest's cable, made by the one ioctl that netlink has no word for.

use super::NetError;
use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd as _,
};

/// The device that makes TAPs.
pub(super) const DEVICE: &str = "/dev/net/tun";

/// Opens the TAP `name` of the calling thread's namespace, making it if it is not there. Frames
/// come and go through the file as a VMM wants them, each behind a virtio header.
pub(super) fn open(name: &str) -> Result<File, NetError> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map_err(NetError::io("open", DEVICE))?;
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte less than the field, which ends in a zero.
    let last = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..last].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes the ifreq it is given, which outlives the call.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
        .map_err(NetError::io("make a TAP with", DEVICE))?;
    Ok(device)
}

/// Makes the TAP `name` in the calling thread's namespace, to last as long as the namespace.
///
/// It has no owner: whoever is in the namespace may attach to it, and nobody but the VM's own VMM
/// is ever there.
pub(super) fn create(name: &str) -> Result<(), NetError> {
    let device = open(name)?;
    // SAFETY: TUNSETPERSIST takes a plain number.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETPERSIST, 1) })
        .map_err(NetError::io("keep a TAP of", DEVICE))
}

fn checked(answer: libc::c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
