//! Entropy for the kernel's generator: after a snapshot two guests must not draw the same numbers.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use aetherium_agent_proto::system::{MAX_ENTROPY_BYTES, MIN_ENTROPY_BYTES};
use aetherium_agent_proto::{Refusal, RefusalKind};

use crate::refuse::OrRefuse as _;

/// From the kernel's `linux/random.h`.
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// The kernel's `struct rand_pool_info` with room for the most there may be.
#[repr(C)]
struct PoolInfo {
    entropy_bits: libc::c_int,
    len: libc::c_int,
    bytes: [u8; MAX_ENTROPY_BYTES],
}

/// Mixes entropy in, counts it as fully random, and makes the generator start from it.
pub(super) fn reseed(entropy: &[u8]) -> Result<(), Refusal> {
    if !(MIN_ENTROPY_BYTES..=MAX_ENTROPY_BYTES).contains(&entropy.len()) {
        let detail = format!(
            "{} bytes of entropy were given; give {MIN_ENTROPY_BYTES} to {MAX_ENTROPY_BYTES}",
            entropy.len()
        );
        return Err(Refusal::new(RefusalKind::InvalidRequest, detail));
    }
    let device = File::options().write(true).open("/dev/urandom");
    let device = device.or_refuse("/dev/urandom cannot be opened")?;
    let len = entropy.len() as libc::c_int;
    let mut info = PoolInfo { entropy_bits: len * 8, len, bytes: [0; MAX_ENTROPY_BYTES] };
    info.bytes[..entropy.len()].copy_from_slice(entropy);
    // SAFETY: the request reads the header and `len` bytes behind it, all inside `info`.
    let added = unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const info) };
    // SAFETY: the request takes no argument.
    if added != 0 || unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) } != 0 {
        return Err(io::Error::last_os_error()).or_refuse("the generator takes no entropy");
    }
    Ok(())
}
