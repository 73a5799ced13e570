//! Takes over the templates of the earlier layout: a directory per name, with files and a manifest.
//!
//! Each directory is first set aside under a name that no template can have, so that it cannot be
//! in the way of what this layout calls its own. Its files are moved, not copied or read: their digests
//! are believed, and the template counts as not verified. A crash at any point is taken up by the
//! next open.

use super::{StoreLock, TemplateStore, document::Document};
use crate::error::{ImageError, OnPath, Result};
use aetherium_model::{
    Name,
    template::{MANIFEST_FORMAT, Template},
    template_ref::DEFAULT_TAG,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

const EARLIER_MANIFEST: &str = "template.json";
/// Of a directory that is being taken over.
const OLDER: &str = ".older";
/// Of a directory that could not be: it is left to whoever can make something of it.
const UNREADABLE: &str = ".unreadable";

/// Whether there is anything to take over.
pub(super) fn is_needed(store: &TemplateStore) -> Result<bool> {
    Ok(!earlier(store)?.is_empty() || !set_aside(store)?.is_empty())
}

/// Takes over whatever there is.
pub(super) fn migrate(store: &TemplateStore, alone: &StoreLock) -> Result<()> {
    for name in earlier(store)? {
        let (from, to) = (store.dir.join(name.as_str()), aside(store, &name, OLDER));
        fs::rename(&from, &to).on("set aside", &from)?;
    }
    store.make_directories()?;
    for name in set_aside(store)? {
        let dir = aside(store, &name, OLDER);
        match take_over(store, alone, &name, &dir) {
            Ok(()) => fs::remove_dir_all(&dir).on("remove", &dir)?,
            Err(ImageError::Broken { detail, .. }) => {
                let kept = aside(store, &name, UNREADABLE);
                tracing::warn!(template = %name, detail, kept = %kept.display(), "not taken over");
                fs::rename(&dir, &kept).on("set aside", &dir)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn take_over(store: &TemplateStore, alone: &StoreLock, name: &Name, dir: &Path) -> Result<()> {
    let broken = |detail: String| ImageError::Broken { name: name.clone(), detail };
    let manifest = dir.join(EARLIER_MANIFEST);
    let text = fs::read(&manifest).map_err(|error| broken(error.to_string()))?;
    let template: Template =
        serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    if template.format != MANIFEST_FORMAT {
        return Err(broken(format!("its manifest has format {}", template.format)));
    }
    super::document::check_files(&template).map_err(broken)?;
    for file in template.files() {
        let (from, to) =
            (dir.join(&file.file), store.blob(&super::document::blob_of(file).map_err(broken)?));
        // One that is here came from another template, or before a crash.
        if fs::symlink_metadata(&from).is_ok() && fs::symlink_metadata(&to).is_err() {
            fs::rename(&from, &to).on("move", &from)?;
        }
    }
    crate::staging::sync_dir(&store.blobs())?;
    let mut document = Document::of(&template).map_err(broken)?;
    document.about.name = name.clone();
    store.write_manifest(alone, &document)?;
    let tag: Name = DEFAULT_TAG.parse().map_err(|error| broken(format!("{error}")))?;
    if store.tag_place(name, &tag).exists() {
        // Built anew meanwhile, by a program that knows this layout.
        return Ok(());
    }
    store.point(alone, name, &tag, &document.digest)
}

/// Directories of the earlier layout in their places.
fn earlier(store: &TemplateStore) -> Result<Vec<Name>> {
    let names: Vec<Name> = super::places::names_in(&store.dir)?;
    Ok(names
        .into_iter()
        .filter(|name| store.dir.join(name.as_str()).join(EARLIER_MANIFEST).is_file())
        .collect())
}

fn set_aside(store: &TemplateStore) -> Result<Vec<Name>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(&store.dir).on("read directory", &store.dir)? {
        let file_name = entry.on("read directory", &store.dir)?.file_name();
        let name = file_name.to_str().and_then(|it| it.strip_prefix('.')?.strip_suffix(OLDER));
        found.extend(name.and_then(|it| it.parse().ok()));
    }
    Ok(found)
}

fn aside(store: &TemplateStore, name: &Name, suffix: &str) -> PathBuf {
    store.dir.join(format!(".{name}{suffix}"))
}
