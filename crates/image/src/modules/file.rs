//! One kernel module: unpacked, and what its `.modinfo` section says.

use super::{Needs, normalized};
use crate::error::{ImageError, OnPath, Result};
use object::{Object, ObjectSection};
use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

/// The largest module, unpacked, in bytes: far above any that exists, far below what would hurt.
const MAX_MODULE_BYTES: u64 = 256 << 20;
/// The file endings of modules. How each is packed is what `CONFIG_MODULE_COMPRESS_*` names.
pub(crate) const ENDINGS: [&str; 4] = [".ko", ".ko.gz", ".ko.xz", ".ko.zst"];

/// What a module says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ModuleInfo {
    pub(crate) needs: Needs,
    /// The release of the kernel it was built for; `None` if it does not say.
    pub(crate) release: Option<String>,
}

/// A module's object file, unpacked.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let file = BufReader::new(File::open(path).on("open", path)?);
    let name = path.to_string_lossy();
    let unpacked: Box<dyn Read> = match name.rsplit_once(".ko").map(|(_, packed)| packed) {
        Some(".gz") => Box::new(flate2::read::GzDecoder::new(file)),
        Some(".xz") => Box::new(lzma_rust2::XzReader::new(file, true)),
        Some(".zst") => Box::new(
            ruzstd::decoding::StreamingDecoder::new(file)
                .map_err(io::Error::other)
                .on("unpack", path)?,
        ),
        _ => Box::new(file),
    };
    let mut bytes = Vec::new();
    unpacked.take(MAX_MODULE_BYTES + 1).read_to_end(&mut bytes).on("unpack", path)?;
    if bytes.len() as u64 > MAX_MODULE_BYTES {
        let detail = format!("unpacked, it is larger than {MAX_MODULE_BYTES} bytes");
        return Err(ImageError::ModuleUnusable { path: path.to_owned(), detail });
    }
    Ok(bytes)
}

/// What a module's object file says of itself.
pub(crate) fn info(path: &Path, object: &[u8]) -> Result<ModuleInfo> {
    let unusable = |detail: String| ImageError::ModuleUnusable { path: path.to_owned(), detail };
    let object = object::File::parse(object).map_err(|error| unusable(error.to_string()))?;
    let section = object
        .section_by_name(".modinfo")
        .ok_or_else(|| unusable("it has no .modinfo section".into()))?;
    let modinfo = section.data().map_err(|error| unusable(error.to_string()))?;
    Ok(parse_modinfo(modinfo))
}

/// `key=value` strings, each ended by a NUL.
fn parse_modinfo(modinfo: &[u8]) -> ModuleInfo {
    let mut info = ModuleInfo::default();
    for entry in modinfo.split(|byte| *byte == 0) {
        let entry = String::from_utf8_lossy(entry);
        match entry.split_once('=') {
            Some(("depends", names)) => {
                let names = names.split(',').filter(|name| !name.is_empty());
                info.needs.hard.extend(names.map(normalized));
            }
            Some(("softdep", text)) => info.needs.soft.extend(soft_before(text)),
            Some(("vermagic", text)) => {
                info.release = text.split(' ').next().map(str::to_owned);
            }
            _ => {}
        }
    }
    info
}

/// The names after `pre:` of a soft dependency such as `pre: a b post: c` (modprobe.d(5)).
fn soft_before(text: &str) -> impl Iterator<Item = String> {
    let mut before = false;
    text.split_whitespace().filter_map(move |word| match word {
        "pre:" | "post:" => {
            before = word == "pre:";
            None
        }
        name => before.then(|| normalized(name)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::tests::module_object;
    use std::{fs, io::Write};

    #[test]
    fn needs_and_release_are_read_from_a_module() {
        let object = module_object(&[
            "license=GPL",
            "depends=failover,net-failover",
            "softdep=pre: crc32c aes-generic post: never",
            "vermagic=6.1.0-1-cloud-amd64 SMP preempt mod_unload ",
        ]);
        let info = info(Path::new("virtio_net.ko"), &object).unwrap();
        assert_eq!(info.needs.hard, ["failover", "net_failover"]);
        assert_eq!(info.needs.soft, ["crc32c", "aes_generic"]);
        assert_eq!(info.release.as_deref(), Some("6.1.0-1-cloud-amd64"));
    }

    #[test]
    fn a_module_reads_the_same_however_it_is_packed() {
        let dir = tempfile::tempdir().unwrap();
        let object = module_object(&["depends=a"]);
        fs::write(dir.path().join("m.ko"), &object).unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&object).unwrap();
        fs::write(dir.path().join("m.ko.gz"), gz.finish().unwrap()).unwrap();
        let zst = ruzstd::encoding::compress_to_vec(
            object.as_slice(),
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        fs::write(dir.path().join("m.ko.zst"), zst).unwrap();
        // As the kernel's own build packs modules: scripts/Makefile.modinst of Linux.
        let mut options = lzma_rust2::XzOptions::default();
        options.set_check_sum_type(lzma_rust2::CheckType::Crc32);
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        xz.write_all(&object).unwrap();
        fs::write(dir.path().join("m.ko.xz"), xz.finish().unwrap()).unwrap();
        for ending in ENDINGS {
            assert!(read(&dir.path().join(format!("m{ending}"))).unwrap() == object, "{ending}");
        }
    }

    #[test]
    fn a_damaged_module_is_refused_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.ko.xz");
        fs::write(&path, "not xz").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("m.ko.xz"));
        assert!(info(&path, b"not an object").unwrap_err().to_string().contains("m.ko.xz"));
    }
}
