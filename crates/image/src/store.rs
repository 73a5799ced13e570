//! Where templates live: one directory each, put in place whole and never changed after.
//!
//! ```text
//! <dir>/<name>/template.json  kernel  kernel.elf  initramfs.cpio  rootfs.ext4
//! <dir>/.<name>.lock           held by whoever builds or removes that template
//! <dir>/.<name>.staging-XXXXXX a build under way, or what a killed one left
//! ```
//! A name never begins with a dot, so the two kinds cannot meet. A template in place is only ever
//! exchanged for another or removed as a whole: VMs that have its files open keep them.

use crate::{
    digest,
    error::{ImageError, OnPath, Result},
    kernel, staging,
};
use aetherium_model::{
    Name,
    finding::Finding,
    template::{MANIFEST_FORMAT, Template, TemplateFile},
};
use std::{
    fs, io,
    path::{Component, Path, PathBuf},
    time::Duration,
};

pub(crate) const MANIFEST_FILE: &str = "template.json";
pub(crate) const KERNEL_FILE: &str = "kernel";
pub(crate) const KERNEL_ELF_FILE: &str = "kernel.elf";
pub(crate) const INITRAMFS_FILE: &str = "initramfs.cpio";
pub(crate) const ROOTFS_FILE: &str = "rootfs.ext4";

/// The templates of one directory. All calls are synchronous and short, but for
/// [`InstalledTemplate::verify`] with [`Check::Full`].
#[derive(Debug, Clone)]
pub struct TemplateStore {
    dir: PathBuf,
}

impl TemplateStore {
    /// Opens the store, making its directory if need be, and removes what killed builds left.
    ///
    /// # Errors
    /// If the directory cannot be made or read.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        fs::create_dir_all(&dir).on("make directory", &dir)?;
        let dir = dir.canonicalize().on("resolve", &dir)?;
        staging::sweep(&dir)?;
        Ok(Self { dir })
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Every template, sorted by name. A directory without a readable manifest is left out with a
    /// warning in the log: one broken template must not hide the others.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Template>> {
        let mut templates = Vec::new();
        for entry in fs::read_dir(&self.dir).on("read directory", &self.dir)? {
            let entry = entry.on("read directory", &self.dir)?;
            let Some(Ok(name)) = entry.file_name().to_str().map(str::parse::<Name>) else {
                continue;
            };
            match self.get(&name) {
                Ok(installed) => templates.push(installed.manifest),
                Err(error) => tracing::warn!(template = %name, %error, "skipping a template"),
            }
        }
        templates.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(templates)
    }

    /// One template.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] without one of that name, [`ImageError::Broken`] where its manifest
    /// cannot be used.
    pub fn get(&self, name: &Name) -> Result<InstalledTemplate> {
        let dir = self.path(name);
        let text = match fs::read(dir.join(MANIFEST_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !dir.exists() => {
                return Err(ImageError::NotFound { name: name.clone(), dir: self.dir.clone() });
            }
            other => other.map_err(|error| broken(name, format!("{MANIFEST_FILE}: {error}")))?,
        };
        let manifest = parse_manifest(name, &text)?;
        Ok(InstalledTemplate { manifest, dir })
    }

    /// Removes a template. VMs that run from it are not disturbed.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] without one of that name, [`ImageError::Busy`] while it is built.
    pub fn remove(&self, name: &Name) -> Result<()> {
        let Some(lock) = staging::NameLock::try_acquire(&self.dir, name)? else {
            return Err(ImageError::Busy { name: name.clone(), waited: Duration::ZERO });
        };
        let staging = staging::Staging::new(lock)?;
        let dir = self.path(name);
        match fs::rename(&dir, staging.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(ImageError::NotFound { name: name.clone(), dir: self.dir.clone() })
            }
            other => other.on("remove", &dir),
        }
    }

    pub(crate) fn path(&self, name: &Name) -> PathBuf {
        self.dir.join(name.as_str())
    }
}

/// A template in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledTemplate {
    /// What it is made of.
    pub manifest: Template,
    dir: PathBuf,
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
    /// The template's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The kernel image.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join(&self.manifest.kernel.image.file)
    }

    /// The same kernel as an uncompressed ELF image, where the template has it twice.
    pub fn kernel_elf(&self) -> Option<PathBuf> {
        self.manifest.kernel.elf.as_ref().map(|it| self.dir.join(&it.file))
    }

    /// The initramfs; a VM appends a segment of its own to a copy, see [`crate::cpio`].
    pub fn initramfs(&self) -> PathBuf {
        self.dir.join(&self.manifest.initramfs.image.file)
    }

    /// The root filesystem's image, to be attached read-only.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join(&self.manifest.rootfs.image.file)
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
        let path = self.dir.join(&file.file);
        let state = || -> Result<Option<String>> {
            let size = fs::metadata(&path).on("look at", &path)?.len();
            if size != file.size {
                return Ok(Some(format!("has {size} bytes instead of {}", file.size)));
            }
            if check == Check::Full && digest::of_file(&path)? != file.sha256 {
                return Ok(Some("does not have the content that was built".into()));
            }
            Ok(None)
        };
        let wrong = state().unwrap_or_else(|error| Some(error.to_string()));
        match wrong {
            None => Finding::ok(check_name, format!("{} ({} bytes)", file.file, file.size), why),
            Some(wrong) => Finding::fail(
                check_name,
                format!("{}: {wrong}", path.display()),
                why,
                format!("build template {} again, replacing it", self.manifest.name),
            ),
        }
    }
}

fn parse_manifest(name: &Name, text: &[u8]) -> Result<Template> {
    let value: serde_json::Value =
        serde_json::from_slice(text).map_err(|error| broken(name, error.to_string()))?;
    let format = &value["format"];
    if *format != MANIFEST_FORMAT {
        let detail =
            format!("its manifest has format {format}, this version reads {MANIFEST_FORMAT}");
        return Err(broken(name, detail));
    }
    let manifest: Template =
        serde_json::from_value(value).map_err(|error| broken(name, error.to_string()))?;
    if manifest.name != *name {
        return Err(broken(name, format!("its manifest is that of {}", manifest.name)));
    }
    for file in manifest.files() {
        let mut parts = Path::new(&file.file).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(broken(name, format!("{:?} is not a file name", file.file)));
        }
    }
    Ok(manifest)
}

fn broken(name: &Name, detail: String) -> ImageError {
    ImageError::Broken { name: name.clone(), detail }
}

#[cfg(test)]
mod tests;
