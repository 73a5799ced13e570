//! Tells what a kernel image is from its bytes, never from its file name.

use crate::error::{ImageError, OnPath, Result};
use aetherium_model::template::KernelFormat;
use memchr::memmem;
use std::{fs, path::Path};

/// The largest image that is looked at, in bytes. An unstripped `vmlinux` comes near it.
const MAX_IMAGE_BYTES: u64 = 1 << 30;
/// Offsets in the x86 boot header: `Documentation/arch/x86/boot.rst` of Linux.
const BOOT_FLAG: usize = 0x1fe;
const HEADER_MAGIC: usize = 0x202;
const KERNEL_VERSION: usize = 0x20e;
/// What the pointer at [`KERNEL_VERSION`] is relative to.
const VERSION_BASE: usize = 0x200;
/// What an uncompressed kernel says of itself, followed by its release: `linux_banner` of Linux.
const BANNER: &[u8] = b"Linux version ";
/// The longest release (`__NEW_UTS_LEN` of Linux).
const MAX_RELEASE_BYTES: usize = 64;

/// What a kernel image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelImage {
    /// How it is packed.
    pub format: KernelFormat,
    /// Its release, as `uname -r` shows it in the guest.
    pub release: String,
}

/// Reads what a kernel image says of itself. Synchronous: reads the whole file.
///
/// # Errors
/// If the file cannot be read, or is neither a bzImage nor an ELF image with a release.
pub fn inspect(path: &Path) -> Result<KernelImage> {
    read(path).map(|(image, _)| image)
}

/// Also gives the file's bytes.
pub(super) fn read(path: &Path) -> Result<(KernelImage, Vec<u8>)> {
    let size = fs::metadata(path).on("look at", path)?.len();
    let unusable = |detail: String| ImageError::KernelUnusable { path: path.to_owned(), detail };
    if size > MAX_IMAGE_BYTES {
        return Err(unusable(format!("it has {size} bytes")));
    }
    let bytes = fs::read(path).on("read", path)?;
    let image = parse(&bytes).map_err(|detail| unusable(detail.into()))?;
    Ok((image, bytes))
}

fn parse(bytes: &[u8]) -> Result<KernelImage, &'static str> {
    let (format, release) = if bytes.starts_with(b"\x7fELF") {
        let release = elf_release(bytes).ok_or("it is ELF, but names no Linux version")?;
        (KernelFormat::Elf, release)
    } else if is_bzimage(bytes) {
        let release = bzimage_release(bytes).ok_or("its boot header names no version")?;
        (KernelFormat::BzImage, release)
    } else {
        return Err("it is neither a bzImage nor ELF");
    };
    Ok(KernelImage { format, release })
}

fn is_bzimage(bytes: &[u8]) -> bool {
    bytes.get(BOOT_FLAG..BOOT_FLAG + 2) == Some(&[0x55, 0xaa])
        && bytes.get(HEADER_MAGIC..HEADER_MAGIC + 4) == Some(b"HdrS")
}

fn bzimage_release(bytes: &[u8]) -> Option<String> {
    let pointer = bytes.get(KERNEL_VERSION..KERNEL_VERSION + 2)?;
    let offset = usize::from(u16::from_le_bytes([pointer[0], pointer[1]]));
    if offset == 0 {
        return None; // the header says that there is none
    }
    first_word(bytes.get(VERSION_BASE + offset..)?)
}

fn elf_release(bytes: &[u8]) -> Option<String> {
    memmem::find_iter(bytes, BANNER)
        .filter(|at| bytes.get(at + BANNER.len()).is_some_and(u8::is_ascii_digit))
        .find_map(|at| first_word(&bytes[at + BANNER.len()..]))
}

/// The printable characters up to a space or NUL, if there are some and not too many.
fn first_word(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().take(MAX_RELEASE_BYTES + 1).position(|b| matches!(b, b' ' | 0))?;
    let word = &bytes[..end];
    let printable = !word.is_empty() && word.iter().all(u8::is_ascii_graphic);
    printable.then(|| String::from_utf8_lossy(word).into_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The start of a bzImage of that release.
    pub(crate) fn bzimage(release: &str) -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        bytes[BOOT_FLAG..BOOT_FLAG + 2].copy_from_slice(&[0x55, 0xaa]);
        bytes[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        bytes[KERNEL_VERSION..KERNEL_VERSION + 2].copy_from_slice(&0x200_u16.to_le_bytes());
        bytes.extend_from_slice(format!("{release} (builder@host) #1 SMP\0").as_bytes());
        bytes
    }

    #[test]
    fn a_bzimage_tells_its_release() {
        let release = "6.1.0-1-cloud-amd64".to_owned();
        let image = parse(&bzimage(&release)).unwrap();
        assert_eq!(image, KernelImage { format: KernelFormat::BzImage, release });
    }

    #[test]
    fn an_elf_kernel_tells_its_release_though_the_format_string_comes_first() {
        let bytes = b"\x7fELF....Linux version %s (%s)\0..Linux version 5.10.1 (gcc) #1\0";
        let image = parse(bytes).unwrap();
        assert_eq!(image, KernelImage { format: KernelFormat::Elf, release: "5.10.1".into() });
    }

    #[test]
    fn what_is_no_kernel_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "#!/bin/sh\n").unwrap();
        let error = inspect(file.path()).unwrap_err().to_string();
        assert!(error.contains(file.path().to_str().unwrap()), "{error}");
        let mut without_version = bzimage("6.1.0");
        without_version[KERNEL_VERSION] = 0;
        without_version[KERNEL_VERSION + 1] = 0;
        assert!(parse(&without_version).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_fall_over(
            mut bytes in prop::collection::vec(any::<u8>(), 0..0x500), cut in 0..0x420_usize
        ) {
            let _ = parse(&bytes);
            let kernel = bzimage("6.1.0");
            bytes.splice(0..0, kernel[..cut.min(kernel.len())].iter().copied());
            let _ = parse(&bytes);
        }
    }
}
