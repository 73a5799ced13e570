//! A kernel's configuration: the text of a `.config`, from inside an image or beside it.

use super::payload::gunzip_after;
use crate::error::{ImageError, OnPath, Result};
use aetherium_model::kernel::{ConfigSource, KernelConfig, KernelOption, Setting};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// What stands before and behind the packed configuration in an image: `kernel/configs.c` of Linux.
const BEGIN: &[u8] = b"IKCFG_ST";
/// The largest configuration, in bytes; a distribution's has some 300 KiB.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// The configuration inside an unpacked image, if it was built with `CONFIG_IKCONFIG`.
pub(super) fn of_image(elf: &[u8]) -> Option<KernelConfig> {
    let text = gunzip_after(elf, BEGIN, MAX_CONFIG_BYTES)?;
    parse(&String::from_utf8_lossy(&text), ConfigSource::Image)
}

/// The configuration beside an image: `config-<release>`, as distributions name it, or `config`.
pub(super) fn beside(image: &Path, release: &str) -> Option<KernelConfig> {
    let text = fs::read(file_beside(image, release)?).ok()?;
    parse(&String::from_utf8_lossy(&text), ConfigSource::Beside)
}

/// The file of that name, if it can be one.
pub(super) fn file_beside(image: &Path, release: &str) -> Option<PathBuf> {
    let dir = image.parent()?;
    let names = [format!("config-{release}"), "config".to_owned()];
    names.into_iter().map(|name| dir.join(name)).find(|path| {
        fs::metadata(path).is_ok_and(|it| it.is_file() && it.len() <= MAX_CONFIG_BYTES)
    })
}

/// The configuration in a file of that purpose.
pub(super) fn of_file(path: &Path) -> Result<KernelConfig> {
    let unusable =
        |detail: String| ImageError::KernelConfigUnusable { path: path.to_owned(), detail };
    let size = fs::metadata(path).on("look at", path)?.len();
    if size > MAX_CONFIG_BYTES {
        return Err(unusable(format!("it has {size} bytes")));
    }
    let text = fs::read(path).on("read", path)?;
    parse(&String::from_utf8_lossy(&text), ConfigSource::Named)
        .ok_or_else(|| unusable("it has no line like CONFIG_X=y".to_owned()))
}

/// Reads `CONFIG_X=y` and `CONFIG_X=m`; `None` if the text has no such line at all.
fn parse(text: &str, source: ConfigSource) -> Option<KernelConfig> {
    let lines: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.trim_end().strip_prefix("CONFIG_")?.split_once('='))
        .collect();
    if lines.is_empty() {
        return None;
    }
    let options = KernelOption::ALL.iter().filter_map(|option| {
        let setting = match *lines.get(option.symbol())? {
            "y" => Setting::BuiltIn,
            "m" => Setting::Module,
            _ => return None,
        };
        Some((*option, setting))
    });
    Some(KernelConfig { source, options: options.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::payload::tests::gzip;
    use proptest::prelude::*;

    const TEXT: &str = "#\n# Linux/x86 6.1.0\n#\nCONFIG_PCI=y\nCONFIG_VIRTIO_BLK=m\n\
                        # CONFIG_VIRTIO_MMIO is not set\nCONFIG_DEFAULT_HOSTNAME=\"(none)\"\n";

    #[test]
    fn options_are_built_in_modules_or_off() {
        let config = parse(TEXT, ConfigSource::Beside).unwrap();
        assert_eq!(config.get(KernelOption::Pci), Setting::BuiltIn);
        assert_eq!(config.get(KernelOption::VirtioBlk), Setting::Module);
        assert_eq!(config.get(KernelOption::VirtioMmio), Setting::Off);
        // A longer name with the same beginning is another option.
        assert_eq!(config.get(KernelOption::PciMmconfig), Setting::Off);
    }

    #[test]
    fn a_configuration_is_found_inside_an_image_behind_a_false_mark() {
        let image =
            [b"..IKCFG_ST is a word..", BEGIN, &gzip(TEXT.as_bytes()), b"IKCFG_ED.."].concat();
        let config = of_image(&image).unwrap();
        assert_eq!(
            (config.source, config.get(KernelOption::Pci)),
            (ConfigSource::Image, Setting::BuiltIn)
        );
        assert_eq!(of_image(b"no configuration here"), None);
    }

    #[test]
    fn the_configuration_beside_an_image_is_that_of_its_release() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("vmlinuz-6.1.0");
        assert_eq!(beside(&image, "6.1.0"), None);
        fs::write(dir.path().join("config-5.10.0"), TEXT).unwrap();
        assert_eq!(beside(&image, "6.1.0"), None);
        fs::write(dir.path().join("config-6.1.0"), TEXT).unwrap();
        assert_eq!(beside(&image, "6.1.0"), parse(TEXT, ConfigSource::Beside));
    }

    #[test]
    fn a_file_that_was_named_must_be_a_configuration() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), TEXT).unwrap();
        assert_eq!(of_file(file.path()).unwrap().source, ConfigSource::Named);
        fs::write(file.path(), "<html>not found</html>").unwrap();
        let error = of_file(file.path()).unwrap_err().to_string();
        assert!(error.contains("CONFIG_X=y"), "{error}");
    }

    #[test]
    fn a_text_without_options_is_no_configuration() {
        assert_eq!(parse("<html>not found</html>", ConfigSource::Beside), None);
    }

    proptest! {
        #[test]
        fn no_image_makes_the_search_fall_over(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = of_image(&[BEGIN, &bytes[..]].concat());
        }
    }
}
