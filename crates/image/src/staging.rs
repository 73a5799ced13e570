//! Where a template is made before it goes into the store: a directory of its own inside the store's,
//! and a lock per name.
//!
//! A staging directory belongs to whoever holds the lock of its name. Locks are the kernel's
//! (`flock`), so that they end with their process however it ends: a staging directory whose lock
//! can be had is what a killed build left, and is removed.

use crate::error::{ImageError, OnPath, Result};
use aetherium_model::Name;
use rustix::fs::FlockOperation;
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const STAGING_INFIX: &str = ".staging-";
/// How often a held lock is tried again.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// The right to build or remove the template of one name.
#[derive(Debug)]
pub(crate) struct NameLock {
    dir: PathBuf,
    name: Name,
    _file: File,
}

impl NameLock {
    /// The lock, unless another holds it.
    pub(crate) fn try_acquire(dir: &Path, name: &Name) -> Result<Option<Self>> {
        let path = dir.join(format!(".{name}.lock"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .on("open lock", &path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { dir: dir.to_owned(), name: name.clone(), _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno).on("lock", &path),
        }
    }

    /// The lock, waiting for it at most `patience`.
    pub(crate) async fn acquire(dir: &Path, name: &Name, patience: Duration) -> Result<Self> {
        let began = Instant::now();
        loop {
            if let Some(lock) = Self::try_acquire(dir, name)? {
                return Ok(lock);
            }
            if began.elapsed() >= patience {
                return Err(ImageError::Busy { name: name.clone(), waited: patience });
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }
}

/// A new, empty directory inside the store's, removed when dropped.
///
/// Removal is synchronous: call [`Staging::discard`] where the runtime must not be held up. Only a
/// cancelled build comes to the other way.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    _lock: NameLock,
}

impl Staging {
    /// Makes it, after removing what an earlier holder of the lock left.
    pub(crate) fn new(lock: NameLock) -> Result<Self> {
        remove_leftovers(&lock)?;
        let dir = tempfile::Builder::new()
            .prefix(&format!(".{}{STAGING_INFIX}", lock.name))
            .tempdir_in(&lock.dir)
            .on("make directory in", &lock.dir)?;
        Ok(Self { path: dir.keep(), _lock: lock })
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it; the same as dropping it, said aloud.
    pub(crate) fn discard(self) {}
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Nobody can act on the error now; whoever takes the lock next removes the rest.
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(%error, "leaving a staging directory to the next build");
        }
    }
}

/// Removes every staging directory whose lock can be had. One that cannot be removed, such as
/// another user's, is no reason to keep the templates from being used.
pub(crate) fn sweep(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).on("read directory", dir)? {
        let entry = entry.on("read directory", dir)?;
        let Some(name) = entry.file_name().to_str().and_then(staging_owner) else { continue };
        let removed = match NameLock::try_acquire(dir, &name) {
            Ok(Some(lock)) => remove_leftovers(&lock),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        removed.unwrap_or_else(|error| tracing::warn!(%error, "cannot remove what a build left"));
    }
    Ok(())
}

/// The template that a staging directory is for.
fn staging_owner(file_name: &str) -> Option<Name> {
    file_name.strip_prefix('.')?.rsplit_once(STAGING_INFIX)?.0.parse().ok()
}

fn remove_leftovers(lock: &NameLock) -> Result<()> {
    for entry in fs::read_dir(&lock.dir).on("read directory", &lock.dir)? {
        let entry = entry.on("read directory", &lock.dir)?;
        if entry.file_name().to_str().and_then(staging_owner).as_ref() == Some(&lock.name) {
            tracing::info!(path = %entry.path().display(), "removing what an ended build left");
            // A tool that outlived its build may still write there; it ends by itself, and the
            // next build removes the rest.
            remove_tree(&entry.path())
                .unwrap_or_else(|error| tracing::warn!(%error, "cannot remove it yet"));
        }
    }
    Ok(())
}

/// Removes a directory, but never reaches through a mount: what is mounted below is not ours.
fn remove_tree(path: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The fifth field is the mount point (proc_pid_mountinfo(5)).
    if mounts.lines().filter_map(|l| l.split(' ').nth(4)).any(|m| Path::new(m).starts_with(path)) {
        let mounted = io::Error::other("a filesystem is mounted below it: unmount it first");
        return Err(mounted).on("remove", path);
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.on("remove", path),
    }
}

/// Makes a directory's entries survive a power failure.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).on("write to disk", dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Name {
        "a.b".parse().unwrap()
    }

    #[test]
    fn a_staging_directory_tells_the_template_it_is_for() {
        assert_eq!(staging_owner(".a.b.staging-x1"), Some(name()));
        assert_eq!(staging_owner(".a.staging-.staging-x1"), Some("a.staging-".parse().unwrap()));
        for other in ["a.staging-x", ".a.lock", "a", "..staging-x"] {
            assert_eq!(staging_owner(other), None, "{other}");
        }
    }

    #[test]
    fn what_a_killed_build_left_is_swept_but_a_running_build_is_left_alone() {
        let store = tempfile::tempdir().unwrap();
        let dead = store.path().join(".dead.staging-1");
        fs::create_dir_all(dead.join("rootfs/etc")).unwrap();
        let lock = NameLock::try_acquire(store.path(), &name()).unwrap().unwrap();
        let alive = Staging::new(lock).unwrap();

        sweep(store.path()).unwrap();

        assert!(!dead.exists());
        assert!(alive.path().exists());
        let path = alive.path().to_owned();
        alive.discard();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_name_is_locked_for_one_at_a_time() {
        let store = tempfile::tempdir().unwrap();
        let held = NameLock::try_acquire(store.path(), &name()).unwrap().unwrap();
        let refused = NameLock::acquire(store.path(), &name(), Duration::ZERO).await;
        assert!(matches!(refused, Err(ImageError::Busy { .. })), "{refused:?}");
        drop(held);
        NameLock::acquire(store.path(), &name(), Duration::ZERO).await.unwrap();
    }
}
