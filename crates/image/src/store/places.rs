//! The names inside the store's directory, and how files and directories appear there whole.

use super::{StoreLock, TemplateStore, steps::between};
use crate::{
    error::{OnPath, Result},
    staging::sync_dir,
};
use aetherium_model::{Digest, Name};
use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    str::FromStr,
};

const BLOBS: &str = "blobs";
const MANIFESTS: &str = "manifests";
const NAMES: &str = "names";
const USES: &str = "uses";
/// Small files on their way to their place; emptied when nobody adds anything.
const WRITING: &str = ".writing";

impl TemplateStore {
    pub(super) fn blobs(&self) -> PathBuf {
        self.dir.join(BLOBS)
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub(super) fn manifests(&self) -> PathBuf {
        self.dir.join(MANIFESTS)
    }

    pub(super) fn manifest_dir(&self, digest: &Digest) -> PathBuf {
        self.manifests().join(digest.hex())
    }

    pub(super) fn names(&self) -> PathBuf {
        self.dir.join(NAMES)
    }

    pub(super) fn tag_place(&self, name: &Name, tag: &Name) -> PathBuf {
        self.names().join(name.as_str()).join(tag.as_str())
    }

    pub(super) fn uses_dir(&self) -> PathBuf {
        self.dir.join(USES)
    }

    fn writing(&self) -> PathBuf {
        self.dir.join(WRITING)
    }

    pub(super) fn make_directories(&self) -> Result<()> {
        let dirs = [self.blobs(), self.manifests(), self.names(), self.uses_dir(), self.writing()];
        for dir in dirs {
            fs::create_dir_all(&dir).on("make directory", &dir)?;
        }
        Ok(())
    }

    /// Every name with each of its tags, sorted.
    pub(super) fn tags(&self) -> Result<Vec<(Name, Name)>> {
        let mut tags = Vec::new();
        for name in names_in::<Name>(&self.names())? {
            let of_name = names_in::<Name>(&self.names().join(name.as_str()))?;
            tags.extend(of_name.into_iter().map(|tag| (name.clone(), tag)));
        }
        tags.sort();
        Ok(tags)
    }

    /// Every manifest there is.
    pub(super) fn digests(&self) -> Result<Vec<Digest>> {
        hex_names_in(&self.manifests())
    }

    /// Makes a tag point to a manifest that is in its place.
    pub(super) fn point(
        &self,
        lock: &StoreLock,
        name: &Name,
        tag: &Name,
        digest: &Digest,
    ) -> Result<()> {
        let dir = self.names().join(name.as_str());
        fs::create_dir_all(&dir).on("make directory", &dir)?;
        between();
        sync_dir(&self.names())?;
        self.write_file(lock, &self.tag_place(name, tag), format!("{digest}\n").as_bytes())
    }

    /// Replaces a small file: after a crash at any point it is the old one or the new one.
    pub(super) fn write_file(&self, _lock: &StoreLock, place: &Path, bytes: &[u8]) -> Result<()> {
        let writing = self.writing();
        let mut file = tempfile::NamedTempFile::new_in(&writing).on("make a file in", &writing)?;
        file.write_all(bytes).and_then(|()| file.as_file().sync_all()).on("write", place)?;
        between();
        file.persist(place).map_err(|error| error.error).on("write", place)?;
        between();
        place.parent().map_or(Ok(()), sync_dir)
    }

    /// Puts a directory of small files in its place, unless there is one already; whether it did.
    pub(super) fn write_dir(
        &self,
        _lock: &StoreLock,
        place: &Path,
        files: &[(&str, Vec<u8>)],
    ) -> Result<bool> {
        let writing = self.writing();
        let dir = tempfile::TempDir::new_in(&writing).on("make a directory in", &writing)?;
        for (name, bytes) in files {
            let path = dir.path().join(name);
            fs::write(&path, bytes)
                .and_then(|()| fs::File::open(&path)?.sync_all())
                .on("write", &path)?;
            between();
        }
        sync_dir(dir.path())?;
        match fs::rename(dir.path(), place) {
            Ok(()) => {
                // It has its place now, and must not be removed with the guard.
                let _ = dir.keep();
                between();
                place.parent().map_or(Ok(()), sync_dir)?;
                Ok(true)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error).on("write", place),
        }
    }

    /// Removes a directory so that it is there as a whole or not at all.
    pub(super) fn remove_dir(&self, _lock: &StoreLock, place: &Path) -> Result<()> {
        let writing = self.writing();
        let grave = tempfile::TempDir::new_in(&writing).on("make a directory in", &writing)?;
        between();
        fs::rename(place, grave.path()).on("remove", place)?;
        between();
        grave.close().on("remove", place)
    }

    /// Removes what killed processes left of small files; nobody writes any while this lock is held
    /// alone.
    pub(super) fn sweep(&self, _alone: &StoreLock) -> Result<()> {
        let writing = self.writing();
        for entry in fs::read_dir(&writing).on("read directory", &writing)? {
            let path = entry.on("read directory", &writing)?.path();
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.on("remove", &path)?;
        }
        Ok(())
    }
}

/// The entries of a directory whose names can be read as these; a directory that is not there has
/// none.
pub(super) fn names_in<T: FromStr>(dir: &Path) -> Result<Vec<T>> {
    let mut found = Vec::new();
    each_name(dir, |name| found.extend(name.parse::<T>().ok()))?;
    Ok(found)
}

pub(super) fn hex_names_in(dir: &Path) -> Result<Vec<Digest>> {
    let mut found = Vec::new();
    each_name(dir, |name| found.extend(Digest::from_hex(name).ok()))?;
    Ok(found)
}

fn each_name(dir: &Path, mut take: impl FnMut(&str)) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.on("read directory", dir)?,
    };
    for entry in entries {
        if let Some(name) = entry.on("read directory", dir)?.file_name().to_str() {
            take(name);
        }
    }
    Ok(())
}
