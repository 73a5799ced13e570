//! A template in its place: its files, and whether they are what they must be.

use crate::{
    digest,
    error::{OnPath, Result},
    kernel,
};
use aetherium_model::{
    finding::Finding,
    template::{Template, TemplateFile},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A template in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledTemplate {
    /// What it is made of.
    pub manifest: Template,
    pub(super) blobs: PathBuf,
}

/// How thoroughly a template is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Each file is there and has its size: milliseconds.
    Quick,
    /// Each file also has its content: reads all of them, so keep it off the runtime.
    Full,
}

impl InstalledTemplate {
    /// Where the content of one of its files is.
    pub fn path_of(&self, file: &TemplateFile) -> PathBuf {
        self.blobs.join(&file.sha256)
    }

    /// The kernel image.
    pub fn kernel(&self) -> PathBuf {
        self.path_of(&self.manifest.kernel.image)
    }

    /// The same kernel as an uncompressed ELF image, where the template has it twice.
    pub fn kernel_elf(&self) -> Option<PathBuf> {
        self.manifest.kernel.elf.as_ref().map(|it| self.path_of(it))
    }

    /// The initramfs; a VM appends a segment of its own to a copy, see [`crate::cpio`].
    pub fn initramfs(&self) -> PathBuf {
        self.path_of(&self.manifest.initramfs.image)
    }

    /// The root filesystem's image, to be attached read-only.
    pub fn rootfs(&self) -> PathBuf {
        self.path_of(&self.manifest.rootfs.image)
    }

    /// Looks whether each file is what the manifest says: one finding for each.
    pub fn verify(&self, check: Check) -> Vec<Finding> {
        let parts = [
            ("template.kernel", &self.manifest.kernel.image),
            ("template.initramfs", &self.manifest.initramfs.image),
            ("template.rootfs", &self.manifest.rootfs.image),
        ];
        let elf = self.manifest.kernel.elf.as_ref().map(|it| ("template.kernel.elf", it));
        parts
            .into_iter()
            .chain(elf)
            .map(|(name, file)| self.verify_file(name, file, check))
            .collect()
    }

    /// Looks whether kernel and initramfs belong together: one finding for the image's release, one
    /// for the modules'. Reads both.
    pub fn verify_kernel(&self) -> Vec<Finding> {
        kernel::belongs::findings(self)
    }

    fn verify_file(&self, check_name: &str, file: &TemplateFile, check: Check) -> Finding {
        let why = "a VM starts from exactly what was built, or not at all";
        let path = self.path_of(file);
        match wrong_with(&path, file, check).unwrap_or_else(|error| Some(error.to_string())) {
            None => Finding::ok(check_name, format!("{} ({} bytes)", file.file, file.size), why),
            Some(wrong) => Finding::fail(
                check_name,
                format!("{} ({}): {wrong}", file.file, path.display()),
                why,
                format!("build template {} again, replacing it", self.manifest.name),
            ),
        }
    }
}

fn wrong_with(path: &Path, file: &TemplateFile, check: Check) -> Result<Option<String>> {
    let size = fs::metadata(path).on("look at", path)?.len();
    if size != file.size {
        return Ok(Some(format!("has {size} bytes instead of {}", file.size)));
    }
    if check == Check::Full && digest::of_file(path)? != file.sha256 {
        return Ok(Some("does not have the content that was built".into()));
    }
    Ok(None)
}
