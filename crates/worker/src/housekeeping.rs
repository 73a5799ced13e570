//! What nobody asks for but everybody expects: records and logs do not pile up for ever.

use crate::{
    WorkerError,
    host::Host,
    reconcile::{Suspects, forget_pruned, recheck},
};
use aetherium_model::VmId;
use rustix::fs::{FallocateFlags, fallocate};
use std::{
    fs::OpenOptions,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tokio_util::sync::CancellationToken;

/// How often old records are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// How long the record of an ended VM, with its executions, its console and its log, is kept.
const KEEP: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often rows are compared with processes and slots.
const RECHECK_EVERY: Duration = Duration::from_secs(60);
/// How often the logs of running VMs are looked at.
const BOUND_EVERY: Duration = Duration::from_secs(10);
/// A guest may print for ever; its console is cut to its end when it is longer than this, in bytes.
const MAX_LOG_BYTES: u64 = 16 * 1024 * 1024;
/// What a cut leaves of it, in bytes.
const KEPT_LOG_BYTES: u64 = 1024 * 1024;
/// Firecracker's metrics in a VM's directory, and the most of them that is kept on disk, in bytes: a
/// line has some 8 KiB, and one is added each minute.
const METRICS: &str = "metrics.json";
const MAX_METRICS_BYTES: u64 = 4 * 1024 * 1024;

/// Keeps records and logs within bounds until `shutdown`.
pub(crate) async fn keep_house(host: Arc<Host>, shutdown: CancellationToken) {
    let mut prune = interval(PRUNE_EVERY);
    let mut bound = interval(BOUND_EVERY);
    // The start has just done it.
    let mut look = interval_at(Instant::now() + RECHECK_EVERY, RECHECK_EVERY);
    let mut suspects = Suspects::default();
    prune.set_missed_tick_behavior(MissedTickBehavior::Delay);
    bound.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = prune.tick() => prune_records(&host).await,
            _ = bound.tick() => bound_logs(&host).await,
            _ = look.tick() => {
                if let Err(error) = recheck(&host, &mut suspects).await {
                    tracing::warn!(%error, "rows and processes could not be compared");
                }
            }
            () = shutdown.cancelled() => return,
        }
    }
}

async fn prune_records(host: &Arc<Host>) {
    match host.queue.store().prune(host.now(), KEEP).await {
        Ok(pruned) => tracing::debug!(?pruned, "pruned"),
        Err(error) => tracing::warn!(%error, "old records could not be pruned"),
    }
    if let Err(error) = forget_pruned(host).await {
        tracing::warn!(%error, "logs of pruned VMs could not be removed");
    }
}

async fn bound_logs(host: &Arc<Host>) {
    let running: Vec<VmId> = host.vms.ids();
    if running.is_empty() {
        return;
    }
    let dirs: Vec<_> = running.into_iter().map(|id| host.layout.vm(id)).collect();
    let bounded = tokio::task::spawn_blocking(move || {
        for dir in dirs {
            for log in crate::host::KEPT_FILES {
                let path = dir.join(log);
                if let Err(error) = bound_log(&path, MAX_LOG_BYTES, KEPT_LOG_BYTES) {
                    tracing::warn!(%error, "a log could not be kept within its bound");
                }
            }
            if let Err(error) = bound_metrics(&dir.join(METRICS)) {
                tracing::warn!(%error, "a VM's metrics could not be kept within their bound");
            }
        }
    });
    if let Err(error) = bounded.await {
        tracing::error!(%error, "looking at the logs failed");
    }
}

/// Cuts a log to its end when it is too long. Whoever writes to it appends, so that it goes on behind
/// what is left; what is written during the cut is lost.
fn bound_log(path: &Path, most: u64, kept: u64) -> Result<(), WorkerError> {
    let cut = || {
        let length = match std::fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if length <= most {
            return Ok(());
        }
        let mut file = OpenOptions::new().read(true).append(true).open(path)?;
        file.seek(SeekFrom::Start(length - kept))?;
        let mut end = Vec::new();
        (&mut file).take(kept).read_to_end(&mut end)?;
        file.set_len(0)?;
        writeln!(file, "[{} bytes were here and were cut]", length - kept)?;
        file.write_all(&end)
    };
    cut().map_err(|error| WorkerError::io(path, error))
}

/// Frees all but the end of a VM's metrics when they are too long. Firecracker does not append but
/// writes on where it was, so the length stays and the beginning becomes a hole.
fn bound_metrics(path: &Path) -> Result<(), WorkerError> {
    let free = || {
        let file = match OpenOptions::new().write(true).open(path) {
            Ok(file) => file,
            // Not every driver writes any.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        // Blocks of stat(2) have 512 bytes, whatever the filesystem's have.
        if metadata.blocks() * 512 <= MAX_METRICS_BYTES {
            return Ok(());
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&file, hole, 0, metadata.len() - KEPT_LOG_BYTES)?)
    };
    free().map_err(|error| WorkerError::io(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn metrics_that_grow_for_ever_lose_their_beginning_and_nothing_moves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(METRICS);
        bound_metrics(&path).unwrap();
        let length = MAX_METRICS_BYTES + 2 * 1024 * 1024;
        fs::write(&path, vec![b'x'; usize::try_from(length).unwrap()]).unwrap();
        bound_metrics(&path).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), length);
        assert!(metadata.blocks() * 512 < 2 * KEPT_LOG_BYTES, "{}", metadata.blocks());
        assert_eq!(fs::read(&path).unwrap().last(), Some(&b'x'));
    }

    #[test]
    fn a_log_that_grows_for_ever_is_cut_to_its_end_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        bound_log(&path, 100, 10).unwrap();
        let mut guest = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        guest.write_all(&[b'x'; 95]).unwrap();
        bound_log(&path, 100, 10).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 95, "it was cut within its bound");
        guest.write_all(b"0123456789").unwrap();
        bound_log(&path, 100, 10).unwrap();
        guest.write_all(b" and on").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "[95 bytes were here and were cut]\n0123456789 and on");
    }
}
