//! Where templates live: content by its digest, and names that point to it.
//!
//! ```text
//! <dir>/blobs/<sha256>                 kernels, initramfs, root filesystems: never changed
//! <dir>/manifests/<sha256>/            one template:
//!                          manifest.json    its parts; the SHA-256 of this file is its digest
//!                          about.json       when it was made, from what, when it was last verified
//!                          boot-test.json   what came of booting it, if anybody did
//! <dir>/names/<name>/<tag>             the digest of a template
//! <dir>/uses/<holder>                  the digest that a VM, a workspace or a snapshot depends on
//! <dir>/.lock                          shared by who adds, alone for who removes
//! <dir>/.<name>.lock                   held by whoever builds the template of that name
//! <dir>/.<name>.staging-XXXXXX         a build under way, or what a killed one left
//! <dir>/.writing/                      small files under way
//! ```
//! Everything appears by a rename of what is on the disk already, in an order that makes a crash
//! harmless: blobs before the manifest that names them, the manifest before the tag that points to
//! it. What nothing points to any more is removed by [`TemplateStore::collect`], in the other order.
//!
//! Templates of an earlier layout, a directory per name, are taken over when the store is opened.

mod announced;
mod collect;
mod commit;
mod document;
mod installed;
mod listed;
mod lock;
mod migrate;
mod notes;
mod places;
mod steps;
mod uses;

#[cfg(test)]
mod tests;

pub use collect::{Collected, Discarded, Keep, Removal};
pub use installed::{Check, InstalledTemplate};
pub use listed::Listed;
pub use uses::{Holder, InvalidHolder, Use};

use crate::{
    error::{ImageError, OnPath, Result},
    staging,
};
use aetherium_model::{
    Digest, Name, TemplateRef,
    template::Template,
    template_ref::{DEFAULT_TAG, Version},
};
pub(crate) use document::{About, Document};
use lock::StoreLock;
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};
use steps::between;

pub(crate) const KERNEL_FILE: &str = "kernel";
pub(crate) const KERNEL_ELF_FILE: &str = "kernel.elf";
pub(crate) const INITRAMFS_FILE: &str = "initramfs.cpio";
pub(crate) const ROOTFS_FILE: &str = "rootfs.ext4";

/// The templates of one directory. Any number of processes may use it at once. All calls are
/// synchronous and short, but for [`InstalledTemplate::verify`] with [`Check::Full`].
#[derive(Debug, Clone)]
pub struct TemplateStore {
    dir: PathBuf,
}

impl TemplateStore {
    /// Opens the store, making its directory if need be, takes over templates of an earlier layout,
    /// and removes what killed processes left.
    ///
    /// # Errors
    /// If the directory cannot be made or read.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        fs::create_dir_all(&dir).on("make directory", &dir)?;
        let dir = dir.canonicalize().on("resolve", &dir)?;
        let store = Self { dir };
        if migrate::is_needed(&store)? {
            migrate::migrate(&store, &StoreLock::alone(&store.dir)?)?;
        }
        store.make_directories()?;
        if let Some(lock) = StoreLock::try_alone(&store.dir)? {
            store.sweep(&lock)?;
        }
        staging::sweep(&store.dir)?;
        Ok(store)
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the default tag of each name points to, sorted by name. One that cannot be read is left
    /// out with a warning in the log: one broken template must not hide the others.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Template>> {
        let latest = self.tags()?.into_iter().filter(|(_, tag)| tag.as_str() == DEFAULT_TAG);
        let opened = latest.filter_map(|(name, _)| match self.get(&name) {
            Ok(installed) => Some(installed.manifest),
            Err(error) => {
                tracing::warn!(template = %name, %error, "skipping a template");
                None
            }
        });
        Ok(opened.collect())
    }

    /// One template: by a name alone what its default tag points to.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] without such a one, [`ImageError::Broken`] where its manifest cannot
    /// be used.
    pub fn get(&self, wanted: impl Into<TemplateRef>) -> Result<InstalledTemplate> {
        let wanted = wanted.into();
        let digest = self.resolve(&wanted)?;
        self.open_manifest(&wanted, &digest)
    }

    /// Makes a tag of `name` point to a template, whatever it pointed to before.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] without the template.
    pub fn tag(
        &self,
        template: &TemplateRef,
        name: &Name,
        tag: &Name,
    ) -> Result<InstalledTemplate> {
        let lock = StoreLock::shared(&self.dir)?;
        let digest = self.resolve(template)?;
        self.open_manifest(template, &digest)?;
        self.point(&lock, name, tag, &digest)?;
        self.open_manifest(&TemplateRef::tagged(name.clone(), tag.clone()), &digest)
    }

    /// Takes a name away: one tag of it, by default the default one. The content stays until
    /// [`TemplateStore::collect`], and longer where a VM uses it.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] without such a tag, [`ImageError::Busy`] while the template of that
    /// name is built.
    pub fn remove(&self, wanted: impl Into<TemplateRef>) -> Result<()> {
        let wanted = wanted.into();
        let Version::Tag(tag) = &wanted.version else {
            return Err(ImageError::NotATag { template: wanted });
        };
        let Some(_building) = staging::NameLock::try_acquire(&self.dir, &wanted.name)? else {
            return Err(ImageError::Busy { name: wanted.name, waited: Duration::ZERO });
        };
        let _lock = StoreLock::shared(&self.dir)?;
        let place = self.tag_place(&wanted.name, tag);
        between();
        match fs::remove_file(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.not_found(&wanted)),
            other => other.on("remove", &place),
        }
    }

    /// Whether there is such a template.
    pub(crate) fn has(&self, wanted: &TemplateRef) -> Result<bool> {
        match self.resolve(wanted) {
            Ok(digest) => Ok(self.manifest_dir(&digest).exists()),
            Err(ImageError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The digest that a reference leads to. That of a pinned one need not be here.
    fn resolve(&self, wanted: &TemplateRef) -> Result<Digest> {
        let tag = match &wanted.version {
            Version::Digest(digest) => return Ok(digest.clone()),
            Version::Tag(tag) => tag,
        };
        let place = self.tag_place(&wanted.name, tag);
        match fs::read_to_string(&place) {
            Ok(text) => text.trim_end().parse().map_err(|error| ImageError::StoreDamaged {
                path: place,
                detail: format!("{error}"),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.not_found(wanted)),
            Err(error) => Err(error).on("read", &place),
        }
    }

    fn open_manifest(&self, wanted: &TemplateRef, digest: &Digest) -> Result<InstalledTemplate> {
        let Some(document) = Document::read(&self.manifest_dir(digest), digest)
            .map_err(|detail| ImageError::Broken { name: wanted.name.clone(), detail })?
        else {
            return Err(self.not_found(wanted));
        };
        let manifest = document
            .template(&wanted.name)
            .map_err(|detail| ImageError::Broken { name: wanted.name.clone(), detail })?;
        Ok(InstalledTemplate { manifest, blobs: self.blobs() })
    }

    fn not_found(&self, wanted: &TemplateRef) -> ImageError {
        let known = self.tags().unwrap_or_default();
        let known = known.into_iter().map(|(name, tag)| TemplateRef::tagged(name, tag));
        ImageError::NotFound {
            name: wanted.clone(),
            dir: self.dir.clone(),
            known: wanted.resembled(known),
        }
    }
}
