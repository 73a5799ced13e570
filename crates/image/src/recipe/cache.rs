//! Root filesystems that steps have left, kept by the key of their layer: what was done once is not
//! done again.
//!
//! Everything in it is safe to delete at any time, and any number of processes may use it at once.

use crate::{
    error::{ImageError, OnPath, Result, blocking},
    sparse,
};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// The unit of `st_blocks` (stat(2)).
const BLOCK_BYTES: u64 = 512;
const SUFFIX: &str = "ext4";

/// The cache of one directory, of which the least recently used are evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepCache {
    dir: PathBuf,
    max_bytes: u64,
}

impl StepCache {
    /// A cache in `dir`, which is made when it is first used, of at most `max_bytes` on the disk: beyond
    /// them the least recently used go.
    pub fn new(dir: impl Into<PathBuf>, max_bytes: u64) -> Self {
        Self { dir: dir.into(), max_bytes }
    }

    fn place(&self, key: &str) -> PathBuf {
        self.dir.join(key).with_extension(SUFFIX)
    }

    /// Whether something is kept under a key.
    pub fn holds(&self, key: &str) -> bool {
        self.place(key).is_file()
    }

    /// Copies what is kept under a key to `to`; whether there was anything.
    ///
    /// # Errors
    /// It cannot be copied.
    pub async fn take(&self, key: &str, to: &Path) -> Result<bool> {
        let (place, to) = (self.place(key), to.to_owned());
        blocking(move || {
            let found = match File::options().write(true).open(&place) {
                // Never kept, or evicted.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                other => other.on("open", &place)?,
            };
            found.set_modified(SystemTime::now()).on("mark as used", &place)?;
            let target = File::create(&to).on("make", &to)?;
            match sparse::copy(&place, &target) {
                Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    Ok(false)
                }
                other => other.map(|()| true),
            }
        })
        .await
    }

    /// Keeps a copy of `image` under a key.
    ///
    /// # Errors
    /// It cannot be written. Nothing half is kept then.
    pub async fn keep(&self, key: &str, image: &Path) -> Result<()> {
        let (cache, place, image) = (self.clone(), self.place(key), image.to_owned());
        blocking(move || {
            fs::create_dir_all(&cache.dir).on("make directory", &cache.dir)?;
            let aside =
                tempfile::NamedTempFile::new_in(&cache.dir).on("make a file in", &cache.dir)?;
            sparse::copy(&image, aside.as_file())?;
            aside.as_file().sync_all().on("write to disk", aside.path())?;
            aside.persist(&place).map_err(|error| error.error).on("move to", &place)?;
            cache.evict()
        })
        .await
    }

    fn evict(&self) -> Result<()> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.dir).on("read directory", &self.dir)? {
            let path = entry.on("read directory", &self.dir)?.path();
            // Somebody else may have evicted it.
            let Ok(found) = fs::metadata(&path) else { continue };
            let bytes = found.blocks() * BLOCK_BYTES;
            kept.push((found.modified().unwrap_or(SystemTime::UNIX_EPOCH), bytes, path));
        }
        kept.sort_unstable();
        let mut total: u64 = kept.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in kept {
            if total <= self.max_bytes {
                break;
            }
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).on("remove", &path);
                }
                _ => total -= bytes,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn what_is_kept_comes_back_and_the_least_recently_used_goes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = StepCache::new(dir.path().join("steps"), 250 << 10);
        let (image, copy) = (dir.path().join("image"), dir.path().join("copy"));
        assert!(!cache.take("a", &copy).await.unwrap(), "nothing was kept yet");
        for key in ["a", "b"] {
            fs::write(&image, key.repeat(100 << 10)).unwrap();
            cache.keep(key, &image).await.unwrap();
            let age = if key == "a" { 20 } else { 10 };
            let file = File::options().write(true).open(cache.place(key)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        assert!(cache.take("a", &copy).await.unwrap(), "to take it is to use it");
        assert_eq!(fs::read_to_string(&copy).unwrap(), "a".repeat(100 << 10));
        fs::write(&image, "c".repeat(100 << 10)).unwrap();
        cache.keep("c", &image).await.unwrap();
        assert!(cache.holds("a") && cache.holds("c") && !cache.holds("b"));
    }
}
