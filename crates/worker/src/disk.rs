//! Workspaces' disks between and beside their VMs: described, snapshotted, grown, written out.
//!
//! ```text
//! <data>/workspaces/<id>/disk.ext4               the disk; its VM writes to it
//! <data>/workspaces/<id>/snapshots/<name>.ext4   the disk as it was; nobody writes to it
//! ```
//! A disk has one user at a time. A VM has it from its start until nothing of the VM is left; work of
//! this module has it while it holds the [`Claim`], without which no VM of the workspace starts. Both
//! a snapshot and an export are made of a copy, for which a running VM stands still; what changes the
//! disk itself is refused while a VM has it.

use crate::{
    WorkerError, hibernation,
    host::Host,
    layout::{Layout, private_dir},
    vm::{Verb, VmHandle},
};
use aetherium_image::{DiskArchive, DiskCopy};
use aetherium_model::{
    Code, Fault, Name, Timestamp, WorkspaceId,
    disk::{DiskSnapshot, WorkspaceDisk},
    resources::DiskMib,
    workspace::{Workspace, WorkspaceState},
};
use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

/// The most snapshots of one disk.
const MAX_SNAPSHOTS: usize = 100;
const EXTENSION: &str = "ext4";
/// The name of the disk in its archive.
const ARCHIVED: &str = "disk.ext4";

/// Who works on which workspace's disk.
#[derive(Default)]
pub(crate) struct DiskClaims(Mutex<HashMap<WorkspaceId, Arc<tokio::sync::Mutex<()>>>>);

/// The right to work on a workspace's disk, or to start its VM.
pub(crate) struct Claim {
    _held: tokio::sync::OwnedMutexGuard<()>,
}

impl DiskClaims {
    /// The claim to a workspace's disk, once whoever has it is done; each has deadlines of its own.
    pub(crate) async fn claim(&self, id: WorkspaceId) -> Claim {
        let lock = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody holds or awaits the others.
            all.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(all.entry(id).or_default())
        };
        Claim { _held: lock.lock_owned().await }
    }
}

/// Removes the copies that an earlier process of this worker was making when it ended.
pub(crate) fn sweep(layout: &Layout) {
    let inside = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    for workspace in inside(&layout.workspaces()) {
        let dir = workspace.path();
        for entry in inside(&dir).chain(inside(&dir.join("snapshots"))) {
            let unfinished = entry.file_name().to_string_lossy().starts_with(DiskCopy::PREFIX);
            if unfinished && let Err(error) = fs::remove_file(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "an unfinished copy stays");
            }
        }
    }
}

/// A disk that is there, and the right to work on it.
struct Held<'a> {
    host: &'a Arc<Host>,
    workspace: Workspace,
    _claim: Claim,
}

/// What the disk is, and what there is of it.
pub(crate) async fn describe(host: &Arc<Host>, id: WorkspaceId) -> Result<WorkspaceDisk, Fault> {
    describe_it(host, &ready(host, id).await?)
}

/// Takes a snapshot of the disk.
pub(crate) async fn snapshot(
    host: &Arc<Host>,
    id: WorkspaceId,
    name: &Name,
) -> Result<WorkspaceDisk, Fault> {
    let held = hold(host, id).await?;
    let place = held.snapshot(name);
    if place.exists() {
        let detail = format!("the disk of {} has a snapshot {name} already", held.workspace.name);
        return Err(Fault::new(Code::Conflict, detail).remedy("choose another name"));
    }
    private_dir(&host.layout.disk_snapshots(id))?;
    if snapshots(host, id)?.len() >= MAX_SNAPSHOTS {
        let detail = format!("the disk of {} has {MAX_SNAPSHOTS} snapshots", held.workspace.name);
        return Err(Fault::new(Code::Conflict, detail).remedy("remove one first"));
    }
    held.copy().await?.keep(&place).await.map_err(WorkerError::from)?;
    held.described().await
}

/// Removes a snapshot.
pub(crate) async fn remove_snapshot(
    host: &Arc<Host>,
    id: WorkspaceId,
    name: &Name,
) -> Result<WorkspaceDisk, Fault> {
    let held = hold(host, id).await?;
    let place = held.existing_snapshot(name)?;
    fs::remove_file(&place).map_err(|error| WorkerError::io(&place, error))?;
    held.described().await
}

/// Makes the disk what it was when the snapshot was taken.
pub(crate) async fn restore(
    host: &Arc<Host>,
    id: WorkspaceId,
    name: &Name,
) -> Result<WorkspaceDisk, Fault> {
    let held = hold(host, id).await?;
    held.refuse_while_in_use()?;
    let source = held.existing_snapshot(name)?;
    let copy = DiskCopy::beside(&held.place()).await.map_err(WorkerError::from)?;
    copy.fill(&source).await.map_err(WorkerError::from)?;
    held.become_of(copy).await
}

/// Grows the disk.
pub(crate) async fn grow(
    host: &Arc<Host>,
    id: WorkspaceId,
    size: DiskMib,
) -> Result<WorkspaceDisk, Fault> {
    let held = hold(host, id).await?;
    let now = size_of(&held.place())?;
    if size <= now {
        let detail =
            format!("size_mib: {size} is not allowed: the disk has {now} MiB and only grows");
        return Err(Fault::new(Code::InvalidRequest, detail).remedy(format!(
            "give {} to {} MiB",
            now.get() + 1,
            DiskMib::MAX
        )));
    }
    held.refuse_while_in_use()?;
    let copy = DiskCopy::beside(&held.place()).await.map_err(WorkerError::from)?;
    copy.fill(&held.place()).await.map_err(WorkerError::from)?;
    copy.grow(size).await.map_err(WorkerError::from)?;
    held.become_of(copy).await
}

/// An archive of the disk, as it is now. It takes what the disk takes of the host until it is
/// dropped, unless the host's filesystem shares blocks.
pub(crate) async fn export(host: &Arc<Host>, id: WorkspaceId) -> Result<DiskArchive, Fault> {
    let copy = hold(host, id).await?.copy().await?;
    Ok(copy.into_archive(ARCHIVED).await.map_err(WorkerError::from)?)
}

impl Held<'_> {
    fn place(&self) -> PathBuf {
        self.host.layout.workspace_disk(self.workspace.id)
    }

    fn snapshot(&self, name: &Name) -> PathBuf {
        let dir = self.host.layout.disk_snapshots(self.workspace.id);
        dir.join(format!("{name}.{EXTENSION}"))
    }

    fn existing_snapshot(&self, name: &Name) -> Result<PathBuf, Fault> {
        let place = self.snapshot(name);
        if place.exists() {
            return Ok(place);
        }
        let workspace = &self.workspace.name;
        Err(Fault::new(Code::NotFound, format!("the disk of {workspace} has no snapshot {name}"))
            .remedy(format!("see what there is: aetherium ws disk show {workspace}")))
    }

    /// The VM that has the disk.
    fn user(&self) -> Option<VmHandle> {
        self.workspace.vm_id().and_then(|id| self.host.vms.get(id).ok())
    }

    fn refuse_while_in_use(&self) -> Result<(), Fault> {
        let workspace = &self.workspace.name;
        if hibernation::is_there(self.host, self.workspace.id) {
            let detail = format!("the hibernated VM of {workspace} has the disk open");
            return Err(Fault::new(Code::Conflict, detail).remedy(format!(
                "wake it (aetherium ws wake {workspace}) and end its VM; then ask again"
            )));
        }
        let Some(vm) = self.user() else { return Ok(()) };
        let id = vm.id();
        Err(Fault::new(Code::Conflict, format!("the disk of {workspace} is in use by {id}"))
            .remedy(format!(
                "end the VM (aetherium vm delete {id}), or wait until it is idle; then ask again"
            )))
    }

    /// A copy of the disk that has no name yet. A VM that has the disk stands still meanwhile.
    async fn copy(&self) -> Result<DiskCopy, Fault> {
        let copy = DiskCopy::beside(&self.place()).await.map_err(WorkerError::from)?;
        match self.user() {
            None => copy.fill(&self.place()).await.map_err(WorkerError::from)?,
            Some(vm) => {
                let _hold = vm.hold()?;
                let file = copy.file().map_err(WorkerError::from)?;
                vm.perform(Verb::CopyDisk(file)).await?;
            }
        }
        Ok(copy)
    }

    /// Puts a copy in the place of the disk, and notes its size.
    async fn become_of(&self, copy: DiskCopy) -> Result<WorkspaceDisk, Fault> {
        let (host, id) = (self.host, self.workspace.id);
        copy.replace(&self.place()).await.map_err(WorkerError::from)?;
        host.queue.set_workspace_disk(id, size_of(&self.place())?, host.now()).await?;
        self.described().await
    }

    async fn described(&self) -> Result<WorkspaceDisk, Fault> {
        describe(self.host, self.workspace.id).await
    }
}

/// Waits for the claim to a disk that is there.
async fn hold(host: &Arc<Host>, id: WorkspaceId) -> Result<Held<'_>, Fault> {
    let claim = host.disks.claim(id).await;
    Ok(Held { host, workspace: ready(host, id).await?, _claim: claim })
}

/// The workspace, if it has a disk that can be worked on.
async fn ready(host: &Arc<Host>, id: WorkspaceId) -> Result<Workspace, Fault> {
    let workspace = host.queue.store().workspace(id).await?;
    let (name, state) = (&workspace.name, &workspace.state);
    if *state != WorkspaceState::Ready {
        let detail = format!("workspace {name} is {}", state.as_str());
        return Err(Fault::new(Code::Conflict, detail).remedy("wait until it is ready"));
    }
    if !host.layout.workspace_disk(id).exists() {
        let detail = format!("workspace {name} has no disk: its VMs are plain processes");
        return Err(Fault::new(Code::Conflict, detail)
            .remedy("make it on a worker whose driver is firecracker or qemu"));
    }
    Ok(workspace)
}

fn describe_it(host: &Host, workspace: &Workspace) -> Result<WorkspaceDisk, Fault> {
    let id = workspace.id;
    let place = host.layout.workspace_disk(id);
    Ok(WorkspaceDisk {
        workspace_id: id,
        size_mib: size_of(&place)?,
        used_bytes: used_bytes(&place)?,
        vm_id: workspace.vm_id().filter(|vm| host.vms.get(*vm).is_ok()),
        hibernation_bytes: hibernation::bytes_in(&host.layout.hibernation(id))?,
        snapshots: snapshots(host, id)?,
    })
}

fn snapshots(host: &Host, id: WorkspaceId) -> Result<Vec<DiskSnapshot>, Fault> {
    let dir = host.layout.disk_snapshots(id);
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| WorkerError::io(&dir, error))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| WorkerError::io(&dir, error))?.path();
        // Copies under way bear no such name.
        let stem = path.file_stem().filter(|_| path.extension().is_some_and(|it| it == EXTENSION));
        let Some(name) = stem.and_then(|it| it.to_str()?.parse().ok()) else { continue };
        found.push(DiskSnapshot {
            name,
            size_mib: size_of(&path)?,
            used_bytes: used_bytes(&path)?,
            created_at: created_at(&path)?,
        });
    }
    found.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    Ok(found)
}

fn metadata(path: &Path) -> Result<fs::Metadata, WorkerError> {
    fs::metadata(path).map_err(|error| WorkerError::io(path, error))
}

fn size_of(disk: &Path) -> Result<DiskMib, Fault> {
    let mib = u32::try_from(metadata(disk)?.len() >> 20).unwrap_or(u32::MAX);
    DiskMib::try_from(mib)
        .map_err(|error| Fault::internal(format!("{} has another size: {error}", disk.display())))
}

fn used_bytes(disk: &Path) -> Result<u64, WorkerError> {
    // st_blocks counts 512 bytes each: stat(2).
    Ok(metadata(disk)?.blocks() * 512)
}

fn created_at(snapshot: &Path) -> Result<Timestamp, WorkerError> {
    // It is written once.
    Ok(metadata(snapshot)?.modified().unwrap_or(SystemTime::UNIX_EPOCH).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn a_disk_has_one_claimant_at_a_time_and_other_disks_do_not_wait() {
        let (claims, one, other) = (DiskClaims::default(), WorkspaceId::new(), WorkspaceId::new());
        let held = claims.claim(one).await;
        assert!(claims.claim(one).now_or_never().is_none());
        assert!(claims.claim(other).now_or_never().is_some());
        drop(held);
        assert!(claims.claim(one).now_or_never().is_some());
        assert_eq!(claims.0.lock().unwrap().len(), 1, "what nobody wants is forgotten");
    }
}
