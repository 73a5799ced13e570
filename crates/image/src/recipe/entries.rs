//! What a recipe copies, entry by entry: directories are walked, contents are digested.
//!
//! Only what a recipe names is read, links are never followed, and nothing is written.

use crate::{
    digest,
    error::{ImageError, OnPath, Result},
};
use aetherium_model::recipe::{FileCopy, FileSource, Inline, Owner};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// The mode of a file whose content is in the recipe.
const INLINE_MODE: u32 = 0o644;
/// The most that one recipe copies, in files and directories.
const MAX_ENTRIES: usize = 100_000;

/// One file, directory or link to be made in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where in the guest.
    pub dest: PathBuf,
    /// What.
    pub kind: Kind,
    /// Who is to own it; root where absent.
    pub owner: Option<Owner>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory with these permission bits.
    Directory(u32),
    /// A symbolic link to this target.
    Link(PathBuf),
    /// A file with these permission bits.
    File(Content, u32),
}

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// That of a file of this host, and its SHA-256 in hexadecimal.
    Host(PathBuf, String),
    /// These bytes.
    Inline(Vec<u8>),
}

impl Entry {
    /// A digest over all that it says: two entries with the same one make the same file.
    pub(super) fn digest(&self) -> String {
        let (kind, mode, content) = match &self.kind {
            Kind::Directory(mode) => ("directory", *mode, String::new()),
            Kind::Link(target) => ("link", 0, target.to_string_lossy().into_owned()),
            Kind::File(Content::Host(_, sha256), mode) => ("file", *mode, sha256.clone()),
            Kind::File(Content::Inline(bytes), mode) => {
                ("file", *mode, digest::hex(&Sha256::digest(bytes)))
            }
        };
        let (dest, mode) = (self.dest.to_string_lossy(), mode.to_string());
        let owner = self.owner.as_ref().map_or("", Owner::as_str);
        digest::of_parts([dest.as_ref(), kind, &mode, &content, owner])
    }
}

/// What one entry of `files` copies; paths are taken from `dir`. Reads every file. Synchronous.
///
/// # Errors
/// A source is not there, cannot be read, or is neither file, directory nor link.
pub fn entries(copy: &FileCopy, dir: &Path) -> Result<Vec<Entry>> {
    let mode = copy.mode.as_ref().map(|mode| mode.bits());
    let dest = PathBuf::from(copy.dest.as_str());
    let owner = copy.owner.clone();
    let bytes = match &copy.source {
        FileSource::Path(path) => {
            let mut found = Vec::new();
            walk(&dir.join(path), dest, mode, owner.as_ref(), &mut found)?;
            return Ok(found);
        }
        FileSource::Inline(Inline::Text(text)) => text.clone().into_bytes(),
        FileSource::Inline(Inline::Base64(base64)) => base64.bytes(),
    };
    let kind = Kind::File(Content::Inline(bytes), mode.unwrap_or(INLINE_MODE));
    Ok(vec![Entry { dest, kind, owner }])
}

fn walk(
    source: &Path,
    dest: PathBuf,
    mode: Option<u32>,
    owner: Option<&Owner>,
    found: &mut Vec<Entry>,
) -> Result<()> {
    let refused =
        |detail: &str| ImageError::CopyRefused { path: source.to_owned(), detail: detail.into() };
    if found.len() == MAX_ENTRIES {
        return Err(refused("the recipe copies more than 100000 files"));
    }
    let metadata = fs::symlink_metadata(source).on("look at", source)?;
    let bits = metadata.permissions().mode() & 0o7777;
    let kind = if metadata.is_dir() {
        Kind::Directory(bits)
    } else if metadata.is_symlink() {
        Kind::Link(fs::read_link(source).on("read link", source)?)
    } else if metadata.is_file() {
        let content = Content::Host(source.to_owned(), digest::of_file(source)?);
        Kind::File(content, mode.unwrap_or(bits))
    } else {
        return Err(refused("it is neither a file, a directory nor a link"));
    };
    let is_dir = metadata.is_dir();
    found.push(Entry { dest: dest.clone(), kind, owner: owner.cloned() });
    if is_dir {
        let mut names = Vec::new();
        for entry in fs::read_dir(source).on("read directory", source)? {
            names.push(entry.on("read directory", source)?.file_name());
        }
        names.sort_unstable();
        for name in names {
            walk(&source.join(&name), dest.join(&name), mode, owner, found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn copy(json: serde_json::Value) -> FileCopy {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_directory_is_copied_in_order_with_its_links_and_modes() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("app/bin")).unwrap();
        fs::write(dir.path().join("app/bin/run"), "#!/bin/sh\n").unwrap();
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.path().join("app/bin/run"), executable).unwrap();
        symlink("bin/run", dir.path().join("app/run")).unwrap();
        let copied = copy(serde_json::json!({ "source": "app", "dest": "/srv", "owner": "a:b" }));
        let found = entries(&copied, dir.path()).unwrap();
        let places: Vec<_> = found.iter().map(|it| it.dest.to_str().unwrap()).collect();
        assert_eq!(places, ["/srv", "/srv/bin", "/srv/bin/run", "/srv/run"]);
        assert!(matches!(found[2].kind, Kind::File(_, 0o755)), "{:?}", found[2]);
        assert_eq!(found[3].kind, Kind::Link("bin/run".into()));
        assert!(found.iter().all(|it| it.owner.as_ref().is_some_and(|it| it.user() == "a")));
    }

    #[test]
    fn another_content_mode_or_owner_is_another_entry() {
        let base = serde_json::json!({ "source": { "text": "a" }, "dest": "/a" });
        let digest = |field: &str, value: serde_json::Value| {
            let mut json = base.clone();
            json[field] = value;
            entries(&copy(json), Path::new("/")).unwrap()[0].digest()
        };
        let same = digest("mode", "0644".into());
        assert_eq!(same, digest("dest", "/a".into()), "0644 is what it is without a mode");
        assert_eq!(same, digest("source", serde_json::json!({ "base64": "YQ==" })));
        for other in [
            digest("mode", "0600".into()),
            digest("owner", "app".into()),
            digest("dest", "/b".into()),
            digest("source", serde_json::json!({ "text": "b" })),
        ] {
            assert_ne!(same, other);
        }
    }

    #[test]
    fn what_is_no_file_is_refused_by_its_path() {
        let copied = copy(serde_json::json!({ "source": "null", "dest": "/null" }));
        let error = entries(&copied, Path::new("/dev")).unwrap_err().to_string();
        assert!(error.contains("/dev/null") && error.contains("neither"), "{error}");
    }
}
