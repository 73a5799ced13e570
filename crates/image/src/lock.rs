//! The kernel's locks on files (`flock`): they end with their process, however it ends.

use crate::error::{OnPath, Result};
use rustix::fs::FlockOperation;
use std::{
    fs::File,
    path::Path,
    time::{Duration, Instant},
};

/// How often a held lock is tried again.
const POLL: Duration = Duration::from_millis(50);

/// Takes the lock of the file at `path`, which is made if need be, waiting for it at most `patience`.
/// It is held until the file is dropped; `None` if another held it all the time.
pub(crate) async fn exclusive(path: &Path, patience: Duration) -> Result<Option<File>> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.on("open lock", path)?;
    let began = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < patience => {
                tokio::time::sleep(POLL).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(errno).on("lock", path),
        }
    }
}
