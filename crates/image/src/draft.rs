//! A template that is made, but not yet in its place: what a recipe's steps go on from.
//!
//! It lies in its staging directory and holds the lock of its name. Dropped, nothing of it is left.

use crate::{
    agent::Agent,
    build::{self, BuildRequest, RootfsSource, WORK_DIR},
    digest,
    error::{ImageError, OnPath, Result, blocking},
    ext4,
    progress::Progress,
    recipe::disk,
    rootfs,
    staging::{NameLock, Staging},
    store::{InstalledTemplate, ROOTFS_FILE, TemplateStore},
};
use aetherium_model::{
    Name, TemplateRef,
    recipe::{Ready, Recipe, Start, plain_env},
    template::{ImageDefaults, Template},
    template_ref::Version,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A template on its way.
#[derive(Debug)]
pub struct Draft {
    staging: Staging,
    manifest: Template,
    /// The tag that is to point to it.
    tag: Name,
    key: String,
}

/// What was made for a draft.
pub(crate) struct Parts {
    pub(crate) manifest: Template,
    /// Stands for the content of the root filesystem, and where it can be told for what it is made of.
    pub(crate) key: String,
}

impl Draft {
    /// Makes a template, for a tag of its name, and leaves it at that. Builds of one name wait for
    /// each other.
    ///
    /// Dropping the future ends every tool it runs and removes what was made so far.
    ///
    /// # Errors
    /// As [`crate::build_as()`].
    pub async fn make(
        store: &TemplateStore,
        request: &BuildRequest,
        place: &TemplateRef,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let Version::Tag(tag) = place.version.clone() else {
            return Err(ImageError::NotATag { template: place.clone() });
        };
        build::refuse_if_taken(store, request, place)?;
        if let RootfsSource::Packages { .. } = request.rootfs {
            rootfs::require_bootstrap_tools()?;
        }
        let agent = Agent::read(&request.agent).await?;
        let lock = NameLock::acquire(store.dir(), &request.name, build::LOCK_PATIENCE).await?;
        build::refuse_if_taken(store, request, place)?;
        let staging = blocking(move || Staging::new(lock)).await?;
        match build::make(staging.path(), request, agent, progress).await {
            Ok(Parts { manifest, key }) => Ok(Self { staging, manifest, tag, key }),
            Err(error) => {
                blocking(move || {
                    staging.discard();
                    Err(error)
                })
                .await
            }
        }
    }

    /// Its manifest, as far as it goes.
    pub fn manifest(&self) -> &Template {
        &self.manifest
    }

    /// Stands for its root filesystem: drafts with the same key began with the same one.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The kernel image.
    pub fn kernel(&self) -> PathBuf {
        self.staging.path().join(&self.manifest.kernel.image.file)
    }

    /// The same kernel as an uncompressed ELF image, where it has it twice.
    pub fn kernel_elf(&self) -> Option<PathBuf> {
        let elf = self.manifest.kernel.elf.as_ref();
        elf.map(|it| self.staging.path().join(&it.file))
    }

    /// The initramfs.
    pub fn initramfs(&self) -> PathBuf {
        self.staging.path().join(&self.manifest.initramfs.image.file)
    }

    /// The root filesystem it has now.
    pub fn rootfs(&self) -> PathBuf {
        self.staging.path().join(ROOTFS_FILE)
    }

    /// A directory for what is needed on the way; it goes with the draft's end.
    pub fn work(&self) -> PathBuf {
        self.staging.path().join(WORK_DIR)
    }

    /// Takes a root filesystem that lies in [`Draft::work`] for its own, made as small as it can be.
    ///
    /// # Errors
    /// It is not whole, or cannot be moved.
    pub async fn take_rootfs(&mut self, image: &Path) -> Result<()> {
        disk::seal(image).await?;
        let place = self.rootfs();
        fs::rename(image, &place).on("move to", &place)?;
        self.manifest.rootfs.uuid = ext4::uuid_of(&place).await?;
        let dir = self.staging.path().to_owned();
        self.manifest.rootfs.image =
            blocking(move || digest::template_file(&dir, ROOTFS_FILE)).await?;
        Ok(())
    }

    /// Takes over what a recipe says about the template's commands.
    pub fn dress(&mut self, recipe: &Recipe) {
        let image = self.manifest.image.get_or_insert_with(ImageDefaults::default);
        image.env.extend(plain_env(&recipe.env));
        if let Some(user) = &recipe.user {
            image.user = Some(user.to_string());
        }
        if let Some(workdir) = &recipe.workdir {
            image.workdir = Some(workdir.to_string());
        }
        if *image == ImageDefaults::default() {
            self.manifest.image = None;
        }
        if let Some(start) = recipe.start.as_ref().map(Start::command) {
            self.manifest.start = Some(start);
        }
        if let Some(ready) = recipe.ready.as_ref().map(Ready::check) {
            self.manifest.ready = Some(ready);
        }
        if let Some(init) = &recipe.init {
            self.manifest.init = Some(init.to_string());
        }
    }

    /// Puts it in its place, for good.
    ///
    /// # Errors
    /// The store cannot be written; it is then as it was.
    pub async fn install(self, store: &TemplateStore) -> Result<InstalledTemplate> {
        let Self { staging, manifest, tag, .. } = self;
        let store = store.clone();
        blocking(move || store.commit(staging, &manifest, &tag)).await
    }
}
