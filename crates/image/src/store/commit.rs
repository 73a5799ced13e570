//! The way of a template into the store: from a staging directory, in an order that makes a crash at
//! any point harmless.

use super::{
    InstalledTemplate, StoreLock, TemplateStore,
    document::{ABOUT_FILE, About, Document, MANIFEST_FILE, blob_of},
    steps::between,
};
use crate::{
    error::{ImageError, OnPath, Result},
    staging::{Staging, sync_dir},
};
use aetherium_model::{Name, TemplateRef, Timestamp, template::Template, template_ref::Version};
use std::{
    fs::{self, File},
    time::SystemTime,
};

impl TemplateStore {
    /// Puts a template in its place whose files are in a staging directory, under the names that its
    /// manifest gives them and with the content it tells of, and makes a tag of its name point to it.
    /// A blob that is here already gives way to the new one: it may be damaged, and whoever has it
    /// open keeps it.
    pub(crate) fn commit(
        &self,
        staging: Staging,
        template: &Template,
        tag: &Name,
    ) -> Result<InstalledTemplate> {
        let broken = |detail| ImageError::Broken { name: template.name.clone(), detail };
        let document = Document::of(template).map_err(broken)?;
        self.commit_document(staging, template, document, tag)
    }

    /// The same with the manifest as it came, so that its digest is what it was elsewhere.
    pub(crate) fn commit_document(
        &self,
        staging: Staging,
        template: &Template,
        mut document: Document,
        tag: &Name,
    ) -> Result<InstalledTemplate> {
        let broken = |detail| ImageError::Broken { name: template.name.clone(), detail };
        document.about.verified_at = Some(Timestamp::from(SystemTime::now()));
        for file in template.files() {
            let path = staging.path().join(&file.file);
            File::open(&path).and_then(|file| file.sync_all()).on("write to disk", &path)?;
        }
        let lock = StoreLock::shared(&self.dir)?;
        for file in template.files() {
            let place = self.blob(&blob_of(file).map_err(broken)?);
            let path = staging.path().join(&file.file);
            match fs::rename(&path, &place) {
                // Two files of the same content: the first has brought it.
                Err(_) if !path.exists() && place.exists() => {}
                other => other.on("move to its place", &path)?,
            }
            between();
        }
        sync_dir(&self.blobs())?;
        self.write_manifest(&lock, &document)?;
        self.point(&lock, &template.name, tag, &document.digest)?;
        drop(lock);
        staging.discard();
        let wanted = TemplateRef::tagged(template.name.clone(), tag.clone());
        self.open_manifest(&wanted, &document.digest)
    }

    /// A template's manifest, as it is kept.
    pub(crate) fn manifest_bytes(&self, template: &InstalledTemplate) -> Result<Vec<u8>> {
        let (name, digest) = (&template.manifest.name, template.digest()?);
        let document = Document::read(&self.manifest_dir(&digest), &digest)
            .map_err(|detail| ImageError::Broken { name: name.clone(), detail })?;
        let gone = || self.not_found(&TemplateRef::pinned(name.clone(), digest.clone()));
        document.map(|it| it.bytes).ok_or_else(gone)
    }

    /// Makes the default tag of `name` point to a template with the files of another, here or in
    /// another store whose blobs this one shares, and a manifest that is changed.
    ///
    /// # Errors
    /// [`ImageError::Broken`] where the changed manifest names a file that is not here.
    pub fn derive(
        &self,
        from: &InstalledTemplate,
        name: &Name,
        change: impl FnOnce(&mut Template),
    ) -> Result<InstalledTemplate> {
        let mut template = from.manifest.clone();
        change(&mut template);
        template.name = name.clone();
        let broken = |detail| ImageError::Broken { name: name.clone(), detail };
        let document = Document::of(&template).map_err(broken)?;
        let lock = StoreLock::shared(&self.dir)?;
        for file in template.files() {
            let blob = self.blob(&blob_of(file).map_err(broken)?);
            if !blob.exists() {
                return Err(broken(format!("{} is not there", blob.display())));
            }
        }
        self.write_manifest(&lock, &document)?;
        let wanted = TemplateRef::from(name);
        if let Version::Tag(tag) = &wanted.version {
            self.point(&lock, name, tag, &document.digest)?;
        }
        self.open_manifest(&wanted, &document.digest)
    }

    /// Puts a manifest in its place whose blobs are in theirs. Of one that is there, what was known
    /// stays, but that it was verified now.
    pub(super) fn write_manifest(&self, lock: &StoreLock, document: &Document) -> Result<()> {
        let place = self.manifest_dir(&document.digest);
        let files = [
            (MANIFEST_FILE, document.bytes.clone()),
            (ABOUT_FILE, encode(&document.about).on("write", &place)?),
        ];
        if self.write_dir(lock, &place, &files)? {
            return Ok(());
        }
        let known = Document::read(&place, &document.digest)
            .map_err(|detail| ImageError::StoreDamaged { path: place.clone(), detail })?;
        let Some(known) = known else { return Ok(()) };
        let verified_at = document.about.verified_at.or(known.about.verified_at);
        let about = About { verified_at, ..known.about };
        self.write_file(lock, &place.join(ABOUT_FILE), &encode(&about).on("write", &place)?)
    }
}

pub(super) fn encode(value: &impl serde::Serialize) -> std::io::Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(std::io::Error::from)
}
