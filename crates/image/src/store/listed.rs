//! Every template there is, with all that is known about it.

use super::{Holder, InstalledTemplate, TemplateStore, collect::disk_bytes, document::Document};
use crate::error::{ImageError, Result};
use aetherium_model::{
    Digest, Name, TemplateRef, Timestamp, boot_test::BootTest, template::Template,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// A template under one of its names, or under none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// What it is. One without a tag has the name it was made under.
    #[serde(flatten)]
    pub template: Template,
    /// The tag that points to it; none where none does.
    pub tag: Option<Name>,
    /// The bytes that its files have.
    pub size_bytes: u64,
    /// The bytes of the disk that they take, with what other templates share.
    pub disk_bytes: u64,
    /// Who depends on it.
    pub used_by: Vec<Holder>,
    /// When all of its files were last seen to have their content; none where they were not, or had
    /// not.
    pub verified_at: Option<Timestamp>,
    /// What came of booting it; none where nobody tried.
    pub boot_test: Option<BootTest>,
}

impl Listed {
    /// How to name it: by its tag, or by its digest where it has none.
    ///
    /// # Errors
    /// [`ImageError::Broken`] where its manifest has no digest.
    pub fn reference(&self) -> Result<TemplateRef> {
        let name = self.template.name.clone();
        if let Some(tag) = &self.tag {
            return Ok(TemplateRef::tagged(name, tag.clone()));
        }
        let digest = Digest::from_hex(&self.template.digest).map_err(|error| {
            ImageError::Broken { name: name.clone(), detail: error.to_string() }
        })?;
        Ok(TemplateRef::pinned(name, digest))
    }
}

impl TemplateStore {
    /// Every tag of every name, sorted; then the templates that no tag points to. One that cannot be
    /// read is left out with a warning in the log.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn entries(&self) -> Result<Vec<Listed>> {
        let mut users: BTreeMap<Digest, Vec<Holder>> = BTreeMap::new();
        for (holder, held) in self.holders()? {
            users.entry(held.digest).or_default().push(holder);
        }
        let mut untagged = self.digests()?;
        untagged.sort();
        let mut listed = Vec::new();
        let mut add = |name: Name, tag: Option<Name>, digest: &Digest| match self
            .entry(&name, tag, digest, &users)
        {
            Ok(entry) => listed.push(entry),
            Err(error) => tracing::warn!(template = %name, %error, "skipping a template"),
        };
        for (name, tag) in self.tags()? {
            // A tag that was taken away meanwhile is none.
            let Ok(digest) = self.resolve(&TemplateRef::tagged(name.clone(), tag.clone())) else {
                continue;
            };
            untagged.retain(|it| *it != digest);
            add(name, Some(tag), &digest);
        }
        for digest in untagged {
            match Document::read(&self.manifest_dir(&digest), &digest) {
                Ok(Some(document)) => add(document.about.name, None, &digest),
                Ok(None) => {}
                Err(error) => tracing::warn!(%digest, error, "skipping a template"),
            }
        }
        Ok(listed)
    }

    /// All that is known about one template.
    ///
    /// # Errors
    /// As [`TemplateStore::get`].
    pub fn inspect(&self, wanted: &TemplateRef) -> Result<(InstalledTemplate, Listed)> {
        let digest = self.resolve(wanted)?;
        let tag = match &wanted.version {
            aetherium_model::template_ref::Version::Tag(tag) => Some(tag.clone()),
            aetherium_model::template_ref::Version::Digest(_) => None,
        };
        let mut users: BTreeMap<Digest, Vec<Holder>> = BTreeMap::new();
        for (holder, held) in self.holders()?.into_iter().filter(|(_, it)| it.digest == digest) {
            users.entry(held.digest).or_default().push(holder);
        }
        let installed = self.open_manifest(wanted, &digest)?;
        Ok((installed, self.entry(&wanted.name, tag, &digest, &users)?))
    }

    fn entry(
        &self,
        name: &Name,
        tag: Option<Name>,
        digest: &Digest,
        users: &BTreeMap<Digest, Vec<Holder>>,
    ) -> Result<Listed> {
        let wanted = TemplateRef::pinned(name.clone(), digest.clone());
        let installed = self.open_manifest(&wanted, digest)?;
        let about = Document::read(&self.manifest_dir(digest), digest)
            .map_err(|detail| ImageError::Broken { name: name.clone(), detail })?
            .ok_or_else(|| self.not_found(&wanted))?
            .about;
        let files = installed.manifest.files();
        // A file that is missing takes nothing; `verify` tells of it.
        let disk_bytes = files.map(|file| disk_bytes(&installed.path_of(file)).unwrap_or(0)).sum();
        Ok(Listed {
            tag,
            size_bytes: installed.manifest.files().map(|file| file.size).sum(),
            disk_bytes,
            used_by: users.get(digest).cloned().unwrap_or_default(),
            verified_at: about.verified_at,
            boot_test: self.boot_test_of(digest)?,
            template: installed.manifest,
        })
    }
}
