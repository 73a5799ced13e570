//! Blobs of registries, kept by their content: what was downloaded once is not downloaded again.
//!
//! ```text
//! <dir>/sha256/<hex>        a whole blob, checked when it came
//! <dir>/sha256/<hex>.part   what has come of one so far; locked by whoever downloads it
//! ```
//! Everything in it is safe to delete at any time. Any number of processes may use it at once. A blob
//! that is opened stays readable though it is evicted.

use super::spec::Digest;
use crate::{
    digest,
    error::{ImageError, OnPath, Result},
};
use rustix::fs::FlockOperation;
use std::{
    fs::{self, File, FileTimes},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

const PART: &str = "part";
/// How often a blob that another process downloads is looked at again.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// The blobs of one directory, of which the least recently used are evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobCache {
    dir: PathBuf,
    max_bytes: u64,
}

/// A blob to be had: here, or to be downloaded by the holder of this lock.
pub(super) enum Slot {
    Here(File),
    Wanted(Part),
}

/// A blob that comes. What has come stays when it is dropped, for the next try.
pub(super) struct Part {
    path: PathBuf,
    file: File,
}

impl BlobCache {
    /// A cache in `dir`, which is made when it is first used, of at most `max_bytes`: beyond them
    /// the least recently used blobs go.
    pub fn new(dir: impl Into<PathBuf>, max_bytes: u64) -> Self {
        Self { dir: dir.into(), max_bytes }
    }

    fn blobs(&self) -> PathBuf {
        self.dir.join("sha256")
    }

    /// The blob, or the right to download it, waiting at most `patience` for another who does.
    pub(super) async fn slot(&self, digest: &Digest, patience: Duration) -> Result<Slot> {
        let began = Instant::now();
        loop {
            if let Some(slot) = self.try_slot(digest)? {
                return Ok(slot);
            }
            if began.elapsed() >= patience {
                return Err(ImageError::BlobBusy { digest: digest.to_string(), waited: patience });
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }

    fn try_slot(&self, digest: &Digest) -> Result<Option<Slot>> {
        let place = self.blobs().join(digest.hex());
        fs::create_dir_all(self.blobs()).on("make directory", &self.blobs())?;
        if let Some(file) = open_used(&place)? {
            return Ok(Some(Slot::Here(file)));
        }
        let path = place.with_extension(PART);
        let file = File::options().create(true).truncate(false).read(true).append(true).open(&path);
        let file = file.on("open", &path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(errno).on("lock", &path),
        }
        // Between opening and locking, whoever had the lock may have put the blob in its place.
        let same = fs::metadata(&path).is_ok_and(|found| {
            file.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (found.dev(), found.ino()))
        });
        Ok(same.then_some(Slot::Wanted(Part { path, file })))
    }

    /// Checks what has come and puts it in its place. What is wrong is thrown away.
    pub(super) fn keep(&self, part: Part, wanted: &Digest) -> Result<File> {
        let Part { path, file } = part;
        let found = digest::of_file(&path)?;
        if found != wanted.hex() {
            fs::remove_file(&path).on("remove", &path)?;
            return Err(ImageError::BlobWrong { wanted: wanted.to_string(), found });
        }
        file.sync_all().on("write to disk", &path)?;
        let place = self.blobs().join(wanted.hex());
        fs::rename(&path, &place).on("move a blob to", &place)?;
        let kept = File::open(&place).on("open", &place)?;
        self.evict()?;
        Ok(kept)
    }

    /// Removes the least recently used until what is left is small enough. Downloads under way count,
    /// but are left alone.
    fn evict(&self) -> Result<()> {
        let dir = self.blobs();
        let mut blobs = Vec::new();
        for entry in fs::read_dir(&dir).on("read directory", &dir)? {
            let path = entry.on("read directory", &dir)?.path();
            // Somebody else may have evicted it.
            let Ok(found) = fs::metadata(&path) else { continue };
            blobs.push((found.modified().unwrap_or(SystemTime::UNIX_EPOCH), found.len(), path));
        }
        blobs.sort_unstable();
        let mut total: u64 = blobs.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in blobs {
            if total <= self.max_bytes {
                break;
            }
            if is_idle(&path) {
                remove(&path)?;
                total -= bytes;
            }
        }
        Ok(())
    }
}

impl Part {
    /// How much has come.
    pub(super) fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().on("look at", &self.path)?.len())
    }

    /// Begins anew.
    pub(super) fn clear(&self) -> Result<()> {
        self.file.set_len(0).on("empty", &self.path)
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        io::Write::write_all(&mut self.file, bytes).on("write", &self.path)
    }
}

/// Opens a blob and marks it as used now.
fn open_used(place: &Path) -> Result<Option<File>> {
    let file = match File::open(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.on("open", place)?,
    };
    // Another user's cache can be read and not marked; then it is evicted sooner than it should be.
    if let Err(error) = file.set_times(FileTimes::new().set_modified(SystemTime::now())) {
        tracing::debug!(%error, "a blob could not be marked as used");
    }
    Ok(Some(file))
}

/// Whether nobody downloads it.
fn is_idle(path: &Path) -> bool {
    if path.extension().is_none_or(|extension| extension != PART) {
        return true;
    }
    File::open(path).is_ok_and(|file| {
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
    })
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.on("remove", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    fn digest_of(bytes: &[u8]) -> Digest {
        Digest::try_from(format!("sha256:{}", digest::hex(&Sha256::digest(bytes)))).unwrap()
    }

    async fn part(cache: &BlobCache, digest: &Digest) -> Part {
        match cache.slot(digest, Duration::ZERO).await.unwrap() {
            Slot::Wanted(part) => part,
            Slot::Here(_) => panic!("{digest} is there"),
        }
    }

    async fn put(cache: &BlobCache, bytes: &[u8]) -> Digest {
        let digest = digest_of(bytes);
        let mut part = part(cache, &digest).await;
        part.append(bytes).unwrap();
        cache.keep(part, &digest).unwrap();
        digest
    }

    async fn is_here(cache: &BlobCache, digest: &Digest) -> bool {
        matches!(cache.slot(digest, Duration::ZERO).await.unwrap(), Slot::Here(_))
    }

    #[tokio::test]
    async fn what_has_come_of_a_blob_is_there_for_the_next_try() {
        let dir = tempfile::tempdir().unwrap();
        let cache = BlobCache::new(dir.path(), 1 << 20);
        let digest = digest_of(b"whole");
        part(&cache, &digest).await.append(b"who").unwrap();
        let mut next = part(&cache, &digest).await;
        assert_eq!(next.len().unwrap(), 3);
        next.append(b"le").unwrap();
        assert_eq!(io::read_to_string(cache.keep(next, &digest).unwrap()).unwrap(), "whole");
        assert!(is_here(&cache, &digest).await);
    }

    #[tokio::test]
    async fn a_blob_of_another_content_is_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        let cache = BlobCache::new(dir.path(), 1 << 20);
        let digest = digest_of(b"good");
        let mut bad = part(&cache, &digest).await;
        bad.append(b"evil").unwrap();
        assert!(matches!(cache.keep(bad, &digest), Err(ImageError::BlobWrong { .. })));
        assert_eq!(part(&cache, &digest).await.len().unwrap(), 0);
    }

    #[tokio::test]
    async fn one_downloads_a_blob_and_the_others_wait_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let cache = BlobCache::new(dir.path(), 1 << 20);
        let digest = digest_of(b"x");
        let mut mine = part(&cache, &digest).await;
        let busy = cache.slot(&digest, Duration::ZERO).await;
        assert!(matches!(busy, Err(ImageError::BlobBusy { .. })));
        let (theirs, ()) = tokio::join!(cache.slot(&digest, Duration::from_secs(30)), async {
            mine.append(b"x").unwrap();
            cache.keep(mine, &digest).unwrap();
        });
        assert!(matches!(theirs.unwrap(), Slot::Here(_)));
    }

    #[tokio::test]
    async fn the_least_recently_used_blobs_go_and_what_is_open_stays_readable() {
        let dir = tempfile::tempdir().unwrap();
        let cache = BlobCache::new(dir.path(), 250);
        let (a, b) = (put(&cache, &[1; 100]).await, put(&cache, &[2; 100]).await);
        let age = |digest: &Digest, seconds| {
            let file = File::open(cache.blobs().join(digest.hex())).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
            file
        };
        age(&a, 20);
        let open = age(&b, 10);
        assert!(is_here(&cache, &a).await, "to look at it is to use it");
        let c = put(&cache, &[3; 100]).await;
        assert!(is_here(&cache, &a).await && is_here(&cache, &c).await);
        assert!(!is_here(&cache, &b).await);
        assert_eq!(io::read_to_string(open).unwrap(), "\u{2}".repeat(100));
    }
}
