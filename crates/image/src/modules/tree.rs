//! The modules of one kernel, as in `/lib/modules/<release>`, found by name and read when needed.

use super::{Provision, file, normalized};
use crate::error::{ImageError, OnPath, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The modules that came with a kernel. Those added later (`updates/`, `extra/`) are not looked at.
#[derive(Debug)]
pub(crate) struct ModuleTree {
    release: String,
    built_in: BTreeSet<String>,
    files: BTreeMap<String, PathBuf>,
    objects: BTreeMap<String, Vec<u8>>,
}

impl ModuleTree {
    /// Finds the modules of `dir`; `release` is that of the kernel they are to be loaded into.
    pub(crate) fn open(dir: &Path, release: &str) -> Result<Self> {
        let list = dir.join("modules.builtin");
        let text = fs::read_to_string(&list).on("read", &list)?;
        let built_in = text.lines().filter_map(module_name).collect();
        let mut files = BTreeMap::new();
        find_modules(&dir.join("kernel"), &mut files)?;
        Ok(Self { release: release.to_owned(), built_in, files, objects: BTreeMap::new() })
    }

    /// How the kernel has a module, by its normalized name.
    pub(crate) fn provision(&mut self, module: &str) -> Result<Provision> {
        if self.built_in.contains(module) {
            return Ok(Provision::BuiltIn);
        }
        let Some(path) = self.files.get(module) else { return Ok(Provision::Absent) };
        let object = match self.objects.remove(module) {
            Some(object) => object,
            None => file::read(path)?,
        };
        let info = file::info(path, &object)?;
        if let Some(built_for) = info.release.filter(|built_for| *built_for != self.release) {
            let detail = format!("it is for kernel {built_for}, the image is {}", self.release);
            return Err(ImageError::ModuleUnusable { path: path.clone(), detail });
        }
        self.objects.insert(module.to_owned(), object);
        Ok(Provision::Loadable(info.needs))
    }

    /// A module that [`ModuleTree::provision`] found loadable, unpacked.
    pub(crate) fn take(&mut self, module: &str) -> Option<Vec<u8>> {
        self.objects.remove(module)
    }
}

/// The normalized name of the module in a file such as `kernel/fs/ext4/ext4.ko.xz`.
fn module_name(path: &str) -> Option<String> {
    let file_name = path.rsplit('/').next()?;
    let stem = file::ENDINGS.iter().find_map(|ending| file_name.strip_suffix(ending))?;
    Some(normalized(stem))
}

fn find_modules(dir: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).on("read directory", dir)? {
        let entry = entry.on("read directory", dir)?;
        let path = entry.path();
        // Not followed through links: `build` and `source` lead far away.
        let kind = entry.file_type().on("look at", &path)?;
        if kind.is_dir() {
            find_modules(&path, found)?;
        } else if let Some(name) = entry.file_name().to_str().and_then(module_name) {
            found.insert(name, path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::tests::write_tree;

    #[test]
    fn a_module_is_found_under_its_normalized_name_wherever_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        write_tree(dir.path(), "6.1", &["kernel/fs/ext4/ext4.ko"], &[("virtio-rng", "")]);
        let mut tree = ModuleTree::open(dir.path(), "6.1").unwrap();
        assert_eq!(tree.provision("ext4").unwrap(), Provision::BuiltIn);
        assert_eq!(tree.provision("floppy").unwrap(), Provision::Absent);
        assert!(matches!(tree.provision("virtio_rng").unwrap(), Provision::Loadable(_)));
        assert!(tree.take("virtio_rng").is_some());
    }

    #[test]
    fn a_module_of_another_kernel_is_refused_with_both_releases() {
        let dir = tempfile::tempdir().unwrap();
        write_tree(dir.path(), "6.1", &[], &[("overlay", "")]);
        let mut tree = ModuleTree::open(dir.path(), "6.2").unwrap();
        let error = tree.provision("overlay").unwrap_err().to_string();
        assert!(error.contains("6.1") && error.contains("6.2"), "{error}");
    }

    #[test]
    fn a_directory_that_is_none_of_a_kernels_modules_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = ModuleTree::open(dir.path(), "6.1").unwrap_err().to_string();
        assert!(error.contains("modules.builtin"), "{error}");
    }
}
