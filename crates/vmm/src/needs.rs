//! How much memory a kernel needs to begin, as its image says.
//!
//! A kernel that has less resets before its console works, so nothing else can tell.

use crate::GuestKernel;
use aetherium_model::template::KernelFormat;
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Offsets in a bzImage's setup header, see "The Linux/x86 Boot Protocol": the magic `HdrS`, the
/// protocol's version, the preferred load address and the memory needed from there on.
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;
/// The first version with `init_size`.
const VERSION_WITH_INIT_SIZE: u16 = 0x020a;

/// Bytes of guest memory below which the kernel cannot begin with this initramfs.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn boot_needs_bytes(kernel: &GuestKernel, initrd: &Path) -> io::Result<u64> {
    let initrd_bytes = std::fs::metadata(initrd)?.len();
    Ok(kernel_needs_bytes(kernel)?.saturating_add(initrd_bytes))
}

/// The same without an initramfs.
pub(crate) fn kernel_needs_bytes(kernel: &GuestKernel) -> io::Result<u64> {
    if let Some(facts) = &kernel.facts {
        return Ok(facts.needs_bytes);
    }
    let mut header = Vec::new();
    let file = File::open(&kernel.image)?;
    let file_bytes = file.metadata()?.len();
    file.take(4096).read_to_end(&mut header)?;
    let stated = match kernel.format {
        KernelFormat::BzImage => bzimage_needs(&header),
        KernelFormat::Elf => None,
    };
    Ok(stated.unwrap_or(file_bytes))
}

fn bzimage_needs(header: &[u8]) -> Option<u64> {
    let bytes = |at: usize, len: usize| header.get(at..at + len);
    let version = u16::from_le_bytes(bytes(VERSION, 2)?.try_into().ok()?);
    if bytes(MAGIC, 4)? != b"HdrS" || version < VERSION_WITH_INIT_SIZE {
        return None;
    }
    let pref_address = u64::from_le_bytes(bytes(PREF_ADDRESS, 8)?.try_into().ok()?);
    let init_size = u32::from_le_bytes(bytes(INIT_SIZE, 4)?.try_into().ok()?);
    pref_address.checked_add(u64::from(init_size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bzimage_says_what_it_needs() {
        let mut header = vec![0; 4096];
        header[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        header[VERSION..VERSION + 2].copy_from_slice(&0x020f_u16.to_le_bytes());
        header[PREF_ADDRESS..PREF_ADDRESS + 8].copy_from_slice(&0x100_0000_u64.to_le_bytes());
        header[INIT_SIZE..INIT_SIZE + 4].copy_from_slice(&0x337_8000_u32.to_le_bytes());
        assert_eq!(bzimage_needs(&header), Some(0x100_0000 + 0x337_8000));
        assert_eq!(bzimage_needs(&header[..0x100]), None);
        assert_eq!(bzimage_needs(&[0; 4096]), None);
    }
}
