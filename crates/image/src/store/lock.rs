//! The store's lock: shared by whoever adds or points, held alone by whoever removes content.
//!
//! It is the kernel's (`flock`), and so ends with its process however that ends. It is held for
//! moments: content is made and digested before, beside its place.

use crate::error::{ImageError, OnPath, Result};
use rustix::fs::FlockOperation;
use std::{
    fs::File,
    path::Path,
    time::{Duration, Instant},
};

const FILE: &str = ".lock";
/// How long the lock is waited for. Removing some hundred GiB of files takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a held lock is tried again.
const POLL: Duration = Duration::from_millis(10);

/// Held until dropped.
#[derive(Debug)]
pub(super) struct StoreLock(#[expect(dead_code, reason = "held for its lock")] File);

impl StoreLock {
    /// With others who add: nothing that is here is removed meanwhile.
    pub(super) fn shared(dir: &Path) -> Result<Self> {
        Self::wait(dir, FlockOperation::NonBlockingLockShared)
    }

    /// With nobody else.
    pub(super) fn alone(dir: &Path) -> Result<Self> {
        Self::wait(dir, FlockOperation::NonBlockingLockExclusive)
    }

    /// With nobody else, unless somebody has it.
    pub(super) fn try_alone(dir: &Path) -> Result<Option<Self>> {
        Self::take(dir, FlockOperation::NonBlockingLockExclusive)
    }

    fn wait(dir: &Path, how: FlockOperation) -> Result<Self> {
        let began = Instant::now();
        loop {
            if let Some(lock) = Self::take(dir, how)? {
                return Ok(lock);
            }
            if began.elapsed() >= PATIENCE {
                return Err(ImageError::StoreBusy { dir: dir.to_owned(), waited: PATIENCE });
            }
            std::thread::sleep(POLL);
        }
    }

    fn take(dir: &Path, how: FlockOperation) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let mut options = File::options();
        let file = options.create(true).truncate(false).write(true).open(&path);
        let file = file.on("open lock", &path)?;
        match rustix::fs::flock(&file, how) {
            Ok(()) => Ok(Some(Self(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno).on("lock", &path),
        }
    }
}
