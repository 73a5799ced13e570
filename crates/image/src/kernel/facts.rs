//! All that can be known of a kernel before it runs.

use super::{config, image, payload};
use crate::error::{ImageError, OnPath, Result};
use aetherium_model::{kernel::KernelFacts, template::KernelFormat};
use object::read::elf::ElfFile64;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A kernel that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// What is known of it.
    pub facts: KernelFacts,
    /// The uncompressed ELF image, where the file is a bzImage that can be unpacked.
    pub elf: Unpacked,
}

/// The ELF image of a kernel.
#[derive(Clone, PartialEq, Eq)]
pub enum Unpacked {
    /// The file is one itself.
    Already,
    /// It was inside the file.
    Inside(Vec<u8>),
    /// It could not be had, for this reason.
    Unreadable(String),
}

impl std::fmt::Debug for Unpacked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Already => f.write_str("Already"),
            Self::Inside(elf) => write!(f, "Inside({} bytes)", elf.len()),
            Self::Unreadable(why) => write!(f, "Unreadable({why:?})"),
        }
    }
}

/// Reads and unpacks a kernel. Synchronous: takes a second or two for a distribution's kernel.
///
/// # Errors
/// If the file cannot be read, or is neither a bzImage nor an ELF image with a release. A bzImage
/// that cannot be unpacked is no error: some VMMs load it as it is.
pub fn examine(path: &Path) -> Result<Examined> {
    examine_with(path, None)
}

/// The same with a configuration that somebody named, which goes before the one in the image.
///
/// # Errors
/// Those of [`examine`], or if the file is no configuration.
pub fn examine_with(path: &Path, named: Option<&Path>) -> Result<Examined> {
    let (image::KernelImage { format, release }, bytes) = image::read(path)?;
    let elf = match format {
        KernelFormat::Elf => Unpacked::Already,
        KernelFormat::BzImage => {
            payload::unpack(&bytes).map_or_else(Unpacked::Unreadable, Unpacked::Inside)
        }
    };
    let image = match &elf {
        Unpacked::Already => Some(&bytes),
        Unpacked::Inside(elf) => Some(elf),
        Unpacked::Unreadable(_) => None,
    };
    let inside = image.and_then(|elf| config::of_image(elf));
    let named = named.map(config::of_file).transpose()?;
    let config = named.or(inside).or_else(|| config::beside(path, &release));
    let needs_bytes = image.and_then(|elf| end_of_segments(elf)).unwrap_or(bytes.len() as u64);
    Ok(Examined { facts: KernelFacts { release, format, needs_bytes, config }, elf })
}

/// The ELF image of a kernel, written to `to` if `path` is not one itself; else `path`.
///
/// # Errors
/// [`ImageError::KernelUnusable`] if it cannot be unpacked; if `to` cannot be written.
pub fn elf_image(path: &Path, to: &Path) -> Result<PathBuf> {
    match examine(path)?.elf {
        Unpacked::Already => Ok(path.to_owned()),
        Unpacked::Inside(elf) => {
            fs::write(to, elf).on("write", to)?;
            Ok(to.to_owned())
        }
        Unpacked::Unreadable(detail) => {
            Err(ImageError::KernelUnusable { path: path.to_owned(), detail })
        }
    }
}

/// The first address behind all that a boot loader puts into memory.
fn end_of_segments(elf: &[u8]) -> Option<u64> {
    let elf: ElfFile64<'_> = ElfFile64::parse(elf).ok()?;
    let endian = elf.endian();
    elf.elf_program_headers()
        .iter()
        .filter(|header| header.p_type.get(endian) == object::elf::PT_LOAD)
        .map(|header| header.p_paddr.get(endian).checked_add(header.p_memsz.get(endian)))
        .max()?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::payload::tests::{bzimage_of, gzip};
    use aetherium_model::kernel::{ConfigSource, KernelOption, Setting};

    /// An ELF image with one segment of `memory_bytes` at `address`, and `content` behind.
    fn elf(address: u64, memory_bytes: u64, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(16, &2_u16.to_le_bytes()); // executable
        put(18, &62_u16.to_le_bytes()); // x86-64
        put(32, &64_u64.to_le_bytes()); // program headers follow
        put(54, &56_u16.to_le_bytes());
        put(56, &1_u16.to_le_bytes());
        put(64, &1_u32.to_le_bytes()); // PT_LOAD
        put(64 + 24, &address.to_le_bytes());
        put(64 + 40, &memory_bytes.to_le_bytes());
        bytes.extend_from_slice(content);
        bytes
    }

    fn kernel() -> Vec<u8> {
        let config = gzip(b"CONFIG_PCI=y\nCONFIG_VIRTIO_BLK=m\n");
        let content = [b"Linux version 6.1.0 (gcc)\0IKCFG_ST", &config[..], b"IKCFG_ED"].concat();
        elf(16 << 20, 24 << 20, &content)
    }

    #[test]
    fn a_packed_kernel_and_its_unpacked_image_have_the_same_facts() {
        let dir = tempfile::tempdir().unwrap();
        let (packed, plain) = (dir.path().join("vmlinuz"), dir.path().join("vmlinux"));
        fs::write(&packed, bzimage_of(&gzip(&kernel()))).unwrap();
        fs::write(&plain, kernel()).unwrap();
        let of_plain = examine(&plain).unwrap();
        assert_eq!(of_plain.elf, Unpacked::Already);
        assert_eq!(of_plain.facts.needs_bytes, 40 << 20);
        let config = of_plain.facts.config.clone().unwrap();
        assert_eq!(config.source, ConfigSource::Image);
        assert_eq!(config.get(KernelOption::VirtioBlk), Setting::Module);
        let of_packed = examine(&packed).unwrap();
        assert_eq!(of_packed.elf, Unpacked::Inside(kernel()));
        let format = KernelFormat::BzImage;
        assert_eq!(of_packed.facts, KernelFacts { format, ..of_plain.facts });
    }

    #[test]
    fn an_image_that_vmms_can_load_is_made_only_where_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let (packed, plain, to) =
            (dir.path().join("vmlinuz"), dir.path().join("vmlinux"), dir.path().join("to"));
        fs::write(&plain, kernel()).unwrap();
        assert_eq!(elf_image(&plain, &to).unwrap(), plain);
        assert!(!to.exists());
        fs::write(&packed, bzimage_of(&gzip(&kernel()))).unwrap();
        assert_eq!(elf_image(&packed, &to).unwrap(), to);
        assert_eq!(fs::read(&to).unwrap(), kernel());
        fs::write(&packed, bzimage_of(b"BZh91AY")).unwrap();
        let error = elf_image(&packed, &to).unwrap_err().to_string();
        assert!(error.contains("vmlinuz") && error.contains("bzip2"), "{error}");
    }

    #[test]
    fn a_kernel_that_cannot_be_unpacked_still_has_the_facts_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let packed = dir.path().join("vmlinuz");
        fs::write(&packed, bzimage_of(b"BZh91AY")).unwrap();
        fs::write(dir.path().join("config-6.1.0"), "CONFIG_ACPI=y\n").unwrap();
        let examined = examine(&packed).unwrap();
        assert!(matches!(examined.elf, Unpacked::Unreadable(_)));
        assert_eq!(examined.facts.setting(KernelOption::Acpi), Some(Setting::BuiltIn));
    }

    /// `AETHERIUM_TEST_KERNEL` names a kernel whose configuration is inside or beside it.
    #[test]
    #[ignore = "needs AETHERIUM_TEST_KERNEL"]
    fn a_real_kernel_tells_all() {
        let path = std::env::var_os("AETHERIUM_TEST_KERNEL").unwrap();
        let examined = examine(Path::new(&path)).unwrap();
        println!("{examined:#?}");
        let config = examined.facts.config.unwrap();
        assert!(config.options.len() > 5, "{config:?}");
    }
}
