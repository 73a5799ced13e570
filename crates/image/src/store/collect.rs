//! Removes what nothing points to any more.

use super::{
    StoreLock, TemplateStore,
    document::{Document, blob_of},
    places::hex_names_in,
    steps::between,
};
use crate::{
    derived::is_derived,
    error::{ImageError, OnPath, Result},
};
use aetherium_model::{Digest, Name, TemplateRef, Timestamp};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

/// What stays though nobody holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many templates of each name, tagged or not.
    pub last: usize,
    /// Templates that were made for tools within this time. They go with their tags, which nobody gave
    /// them; of their names there is one each.
    pub derived: Duration,
}

/// Whether anything is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// No: it is only told what would be.
    Pretended,
    /// Yes.
    Real,
}

/// What was removed, or would be.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// The templates.
    pub templates: Vec<Discarded>,
    /// How many files.
    pub files: usize,
    /// How many bytes of the disk they took.
    pub bytes: u64,
}

/// A template that nothing pointed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Discarded {
    /// The name it was made under, with its digest.
    pub template: TemplateRef,
    /// When it was made.
    pub created_at: Timestamp,
}

impl TemplateStore {
    /// Removes every template that no tag points to, that nobody holds, and that is not to be kept; those
    /// that were made for tools whatever points to them; and every file that no template has.
    ///
    /// Builds, imports and VMs that start meanwhile lose nothing: what they add comes before or after.
    ///
    /// # Errors
    /// If anything that says what is needed cannot be read; nothing is removed then.
    pub fn collect(&self, keep: Keep, removal: Removal) -> Result<Collected> {
        let lock = StoreLock::alone(&self.dir)?;
        let documents = self.documents()?;
        let needed = self.needed(&documents, keep)?;
        let (kept, gone): (Vec<_>, Vec<_>) =
            documents.iter().partition(|document| needed.contains(&document.digest));
        let mut blobs = BTreeSet::new();
        for document in kept {
            let template = document.template(&document.about.name);
            let template = template.map_err(|detail| self.damaged(&document.digest, detail))?;
            for file in template.files() {
                blobs.insert(blob_of(file).map_err(|it| self.damaged(&document.digest, it))?);
            }
        }
        let mut collected = Collected::default();
        for document in gone {
            if removal == Removal::Real {
                self.remove_tags_of(&document.digest)?;
                self.remove_dir(&lock, &self.manifest_dir(&document.digest))?;
            }
            collected.templates.push(Discarded {
                template: TemplateRef::pinned(document.about.name.clone(), document.digest.clone()),
                created_at: document.about.created_at,
            });
        }
        for digest in hex_names_in(&self.blobs())?.into_iter().filter(|it| !blobs.contains(it)) {
            let path = self.blob(&digest);
            collected.files += 1;
            collected.bytes += disk_bytes(&path)?;
            if removal == Removal::Real {
                between();
                fs::remove_file(&path).on("remove", &path)?;
            }
        }
        if removal == Removal::Real {
            self.remove_empty_names()?;
            self.sweep(&lock)?;
        }
        Ok(collected)
    }

    fn documents(&self) -> Result<Vec<Document>> {
        let mut documents = Vec::new();
        for digest in self.digests()? {
            let read = Document::read(&self.manifest_dir(&digest), &digest);
            documents.extend(read.map_err(|detail| self.damaged(&digest, detail))?);
        }
        documents.sort_by(|a, b| a.digest.cmp(&b.digest));
        Ok(documents)
    }

    fn needed(&self, documents: &[Document], keep: Keep) -> Result<BTreeSet<Digest>> {
        let mut needed = BTreeSet::new();
        let now = Timestamp::from(SystemTime::now());
        let is_old = |digest: &Digest| {
            let document = documents.iter().find(|it| it.digest == *digest);
            document.is_some_and(|it| now.since(it.about.created_at) >= keep.derived)
        };
        for (name, tag) in self.tags()? {
            let derived = is_derived(&name);
            let digest = self.resolve(&TemplateRef::tagged(name, tag))?;
            if !(derived && is_old(&digest)) {
                needed.insert(digest);
            }
        }
        needed.extend(self.holders()?.into_iter().map(|(_, held)| held.digest));
        let mut by_name: BTreeMap<&Name, Vec<&Document>> = BTreeMap::new();
        for document in documents.iter().filter(|it| !is_derived(&it.about.name)) {
            by_name.entry(&document.about.name).or_default().push(document);
        }
        for mut of_name in by_name.into_values() {
            of_name.sort_by_key(|it| std::cmp::Reverse(it.about.created_at));
            needed.extend(of_name.into_iter().take(keep.last).map(|it| it.digest.clone()));
        }
        Ok(needed)
    }

    /// Takes away what points to a template that goes.
    fn remove_tags_of(&self, digest: &Digest) -> Result<()> {
        for (name, tag) in self.tags()? {
            if self.resolve(&TemplateRef::tagged(name.clone(), tag.clone()))? == *digest {
                let place = self.tag_place(&name, &tag);
                between();
                fs::remove_file(&place).on("remove", &place)?;
            }
        }
        Ok(())
    }

    fn remove_empty_names(&self) -> Result<()> {
        let names: Vec<Name> = super::places::names_in(&self.names())?;
        for name in names {
            let dir = self.names().join(name.as_str());
            between();
            match fs::remove_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                other => other.on("remove", &dir)?,
            }
        }
        Ok(())
    }

    fn damaged(&self, digest: &Digest, detail: String) -> ImageError {
        ImageError::StoreDamaged { path: self.manifest_dir(digest), detail }
    }
}

/// What a file takes of its disk: `st_blocks` counts 512 bytes, whatever the filesystem (stat(2)).
pub(super) fn disk_bytes(path: &Path) -> Result<u64> {
    Ok(fs::symlink_metadata(path).on("look at", path)?.blocks() * 512)
}
