//! What a hibernated VM leaves beside its workspace's disk: its memory, and what that depends on.
//!
//! ```text
//! <data>/workspaces/<id>/.hibernating-<vm>   being written: its VM stands still, and goes on if nothing
//!                                            comes of it
//! <data>/workspaces/<id>/hibernation         complete: no VM runs, and nobody has written to the disk
//! <data>/workspaces/<id>/.spent-<vm>         of no more use, being removed
//! ```
//! A guest's memory and its disk belong together: whoever lets anything write to the disk takes the
//! memory away before, by a rename. So whatever ends this process, what bears the name
//! `hibernation` fits the disk beside it. Decision 0019 has the order of all steps.

use crate::{WorkerError, host::Host, vm};
use aetherium_model::{Code, Fault, VmId, WorkspaceId, workspace::Hibernation};
use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

const HIBERNATING: &str = ".hibernating-";
const SPENT: &str = ".spent-";
/// Of the file system, what hibernations leave free, as a divisor: a twentieth. Disks grow into it.
const KEEP_FREE: u64 = 20;

/// Whether a workspace's last VM has left its memory, complete and fit for the disk.
pub(crate) fn is_there(host: &Host, id: WorkspaceId) -> bool {
    host.layout.hibernation(id).exists()
}

/// Where the memory of this VM is written.
pub(crate) fn aside(host: &Host, id: WorkspaceId, vm: VmId) -> PathBuf {
    host.layout.workspace(id).join(format!("{HIBERNATING}{vm}"))
}

/// Gives what was written its name, and notes that it is there. Its VM must be about to be killed: it
/// must not go on from here.
///
/// # Errors
/// It cannot be renamed, and counts for nothing.
pub(crate) async fn complete(host: &Host, id: WorkspaceId, vm: VmId) -> Result<(), Fault> {
    let (aside, place) = (aside(host, id, vm), host.layout.hibernation(id));
    fs::rename(&aside, &place).map_err(|error| WorkerError::io(&place, error))?;
    host.digests.moved(&aside, &place);
    note(host, id, Some(&describe(&place)?)).await;
    Ok(())
}

/// Memory that counts no more, whose files are left to be removed.
pub(crate) struct Spent(PathBuf);

/// Takes away the memory of a workspace's hibernated VM: from here on the disk may be written to.
///
/// # Errors
/// It cannot be taken away, and the disk must not be touched.
pub(crate) async fn spend(host: &Host, id: WorkspaceId) -> Result<Spent, Fault> {
    let place = host.layout.hibernation(id);
    let spent = host.layout.workspace(id).join(format!("{SPENT}{}", VmId::new()));
    fs::rename(&place, &spent).map_err(|error| WorkerError::io(&place, error))?;
    note(host, id, None).await;
    Ok(Spent(spent))
}

impl Spent {
    /// Frees its room on the disk, or what a VMM that has it open does not need of it.
    pub(crate) async fn remove(self) {
        if let Err(error) = tokio::fs::remove_dir_all(&self.0).await {
            let path = self.0.display();
            tracing::warn!(%path, %error, "spent memory is left until the worker's next start");
        }
    }
}

/// Tells the store what is there. The disk is what counts: a note that could not be written is put right
/// by the next start of this worker.
async fn note(host: &Host, id: WorkspaceId, hibernation: Option<&Hibernation>) {
    if let Err(error) = host.queue.set_hibernation(id, hibernation, host.now()).await {
        tracing::error!(workspace = %id, %error, "what is hibernated could not be noted");
    }
}

fn describe(place: &Path) -> Result<Hibernation, Fault> {
    let metadata = fs::metadata(place).map_err(|error| WorkerError::io(place, error))?;
    let at = metadata.modified().map_err(|error| WorkerError::io(place, error))?;
    Ok(Hibernation { at: at.into(), bytes: bytes_in(place)? })
}

/// What a directory's files take of the disk, in bytes; nothing where there is none.
pub(crate) fn bytes_in(dir: &Path) -> Result<u64, WorkerError> {
    let failed = |error| WorkerError::io(dir, error);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(failed)?,
    };
    let mut bytes = 0;
    for entry in entries {
        // st_blocks counts 512 bytes each: stat(2).
        bytes += entry.and_then(|it| it.metadata()).map_err(failed)?.blocks() * 512;
    }
    Ok(bytes)
}

/// What is promised to memories that are being written, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Promises(Mutex<HashMap<VmId, u64>>);

/// Room for the memory of one VM, until it is dropped.
pub(crate) struct Promise {
    host: Arc<Host>,
    vm: VmId,
}

impl Drop for Promise {
    fn drop(&mut self) {
        lock(&self.host.hibernating).remove(&self.vm);
    }
}

fn lock(promises: &Promises) -> std::sync::MutexGuard<'_, HashMap<VmId, u64>> {
    // A panic elsewhere cannot leave the map half changed: each use is one operation.
    promises.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Finds room for `bytes` of a VM's memory, within what hibernations may take in all and with room left
/// for disks to grow.
///
/// # Errors
/// [`Code::DiskFull`]: there is none.
pub(crate) fn promise(host: &Arc<Host>, vm: VmId, bytes: u64) -> Result<Promise, Fault> {
    let root = host.layout.workspaces();
    let disk = rustix::fs::statvfs(&root).map_err(|error| WorkerError::io(&root, error.into()))?;
    let mut taken = 0;
    for id in workspaces(host)? {
        taken += bytes_in(&host.layout.hibernation(id))?;
    }
    let mut promised = lock(&host.hibernating);
    let room = Room {
        taken,
        budget: host.settings.hibernation_budget,
        free: disk.f_bavail * disk.f_frsize,
        size: disk.f_blocks * disk.f_frsize,
    };
    room.check(bytes + promised.values().sum::<u64>())?;
    promised.insert(vm, bytes);
    drop(promised);
    Ok(Promise { host: Arc::clone(host), vm })
}

/// What there is on the disk that hibernated VMs leave their memory on, in bytes.
struct Room {
    /// Theirs by now.
    taken: u64,
    /// Theirs at most.
    budget: u64,
    free: u64,
    size: u64,
}

impl Room {
    /// Whether `wanted` bytes more fit.
    fn check(&self, wanted: u64) -> Result<(), Fault> {
        let Self { taken, budget, free, size } = self;
        if taken.saturating_add(wanted) > *budget {
            let detail = format!(
                "hibernated VMs have {taken} of the {budget} bytes they may have, and {wanted} more \
                 are wanted"
            );
            return Err(Fault::new(Code::DiskFull, detail)
                .remedy("delete workspaces, or give more with --hibernation-mib"));
        }
        let floor = size / KEEP_FREE;
        if wanted.saturating_add(floor) > *free {
            let detail = format!(
                "the disk has {free} bytes free, of which {floor} stay so, and {wanted} are wanted"
            );
            return Err(
                Fault::new(Code::DiskFull, detail).remedy("make room in the data directory")
            );
        }
        Ok(())
    }
}

/// The workspaces that have a directory.
fn workspaces(host: &Host) -> Result<Vec<WorkspaceId>, WorkerError> {
    let root = host.layout.workspaces();
    let entries = fs::read_dir(&root).map_err(|error| WorkerError::io(&root, error))?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    Ok(names.filter_map(|name| name.to_str()?.parse().ok()).collect())
}

/// Removes what an earlier process of this worker left half done, and brings the store's notes in line
/// with what is there. For once no VM of that process is waiting to be taken over any more.
///
/// # Errors
/// The data directory or the store cannot be read.
pub(crate) async fn sweep(host: &Host) -> Result<(), WorkerError> {
    let noted: HashMap<_, _> =
        host.queue.store().hibernations(host.id).await?.into_iter().collect();
    for id in workspaces(host)? {
        // A VM that was taken over may be idle already.
        let is_written = lock(&host.hibernating).keys().any(|vm| aside(host, id, *vm).exists());
        if !is_written {
            sweep_one(host, id);
        }
        if let Err(error) = vm::renew_key(host, id) {
            tracing::warn!(workspace = %id, %error, "its hibernated memory is not under the newest key");
        }
        match (is_there(host, id), noted.contains_key(&id)) {
            (true, false) => match describe(&host.layout.hibernation(id)) {
                Ok(found) => note(host, id, Some(&found)).await,
                Err(error) => tracing::warn!(workspace = %id, %error, "unreadable hibernation"),
            },
            (false, true) => note(host, id, None).await,
            (true, true) | (false, false) => {}
        }
    }
    Ok(())
}

/// Removes what counts for nothing beside one workspace's disk.
pub(crate) fn sweep_one(host: &Host, id: WorkspaceId) {
    for entry in fs::read_dir(host.layout.workspace(id)).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_left = name.starts_with(HIBERNATING) || name.starts_with(SPENT);
        if is_left && let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "unfinished memory stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_kept_within_the_budget_and_leaves_a_twentieth_of_the_disk_free() {
        let room = Room { taken: 60, budget: 100, free: 200, size: 1000 };
        room.check(40).unwrap();
        let why = room.check(41).unwrap_err();
        assert_eq!(why.code, Code::DiskFull);
        assert!(why.detail.contains("have 60 of the 100 bytes"), "{why}");
        let room = Room { budget: 1000, ..room };
        room.check(150).unwrap();
        let why = room.check(151).unwrap_err();
        assert!(why.detail.contains("of which 50 stay so"), "{why}");
    }
}
