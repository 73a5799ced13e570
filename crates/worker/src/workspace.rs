//! A workspace on its worker: its disk, and its VM on demand.

use crate::{
    WorkerError,
    handler::status,
    hibernation,
    host::Host,
    layout::private_dir,
    room::{Asker, Wait},
    run,
    vm::{self, Hold, IdlePolicy, Verb, VmHandle},
};
use aetherium_image::Holder;
use aetherium_model::{
    Code, Fault, VmId, WorkspaceId,
    placement::WhenFull,
    vm::{Vm, VmState},
    workspace::{Workspace, WorkspaceState},
};
use aetherium_store::{RunRef, StoreError};
use std::{fmt::Write as _, io, sync::Arc};

/// Makes a workspace's disk. One that exists is kept: the task may have been done before.
pub(crate) async fn make_disk(host: &Arc<Host>, workspace: &Workspace) -> Result<(), Fault> {
    let driver = host.driver()?.kind();
    private_dir(&host.layout.workspace(workspace.id))?;
    if !driver.starts_from_template() {
        return Ok(());
    }
    vm::hold_for_workspace(host, workspace.id, &workspace.spec)?;
    let disk = host.layout.workspace_disk(workspace.id);
    if !disk.exists() {
        let size = workspace.spec.resources.disk_mib;
        host.blanks.clone_to(&disk, size).await.map_err(WorkerError::from)?;
    }
    Ok(())
}

/// The workspace's VM, held: the one it has, the one that was hibernated, or a new one. Where its worker
/// has no room, it is waited for as long as the workspace says, or until the worker stops. The task that
/// asks for it, if one does, has in its log what is done.
pub(crate) async fn ensure_vm(
    host: &Arc<Host>,
    id: WorkspaceId,
    asker: Option<Asker<'_>>,
) -> Result<(VmHandle, Hold), Fault> {
    // That would not change by waiting.
    host.driver()?;
    let when_full = host.queue.store().workspace(id).await?.when_full;
    let mut wait = Wait::new(host, when_full.unwrap_or(WhenFull::OF_PROMPTS), asker);
    let run = asker.map(|asker| asker.log);
    loop {
        match find_or_start(host, id, run).await {
            Err(fault) if fault.code == Code::NoCapacity => wait.refused(fault).await?,
            done => return done,
        }
    }
}

async fn find_or_start(
    host: &Arc<Host>,
    id: WorkspaceId,
    run: Option<RunRef>,
) -> Result<(VmHandle, Hold), Fault> {
    // Whoever works on the disk without a VM holds this until that is done, and so does whoever else
    // wants a VM of it.
    let _claim = host.disks.claim(id).await;
    let workspace = host.queue.store().workspace(id).await?;
    if let Some(vm) = workspace.vm_id()
        && let Ok(handle) = host.vms.get(vm)
    {
        // One that is on its way out has the workspace's disk until it is gone.
        if let Some(hold) = handle.hold_unless_it_ends().await {
            return Ok((handle, hold));
        }
    }
    if hibernation::is_there(host, id) {
        vm::room_to_wake(host, id)?;
        match awaken(host, &workspace, run).await? {
            Awakening::Done(handle, hold) => return Ok((handle, hold)),
            Awakening::Hopeless(why) => {
                // Before anything else writes to the disk. One that had gone on has spent it already.
                if hibernation::is_there(host, id) {
                    hibernation::spend(host, id).await?.remove().await;
                }
                let message = format!("the VM that was hibernated is lost, and boots anew: {why}");
                tracing::warn!(workspace = %id, reason = %why, "a hibernated vm is lost");
                tell(host, run, "hibernation_discarded", message).await;
            }
        }
    }
    let vm = begin(host, &workspace).await?;
    tell(host, run, "vm_starting", format!("starting {}", vm.id)).await;
    let handle = vm::spawn(host, vm, IdlePolicy::of(&workspace), vm::Origin::Fresh);
    let hold = handle.hold()?;
    Ok((handle, hold))
}

/// What came of waking a hibernated VM.
enum Awakening {
    /// It runs.
    Done(VmHandle, Hold),
    /// Its memory is of no use, for this reason.
    Hopeless(Fault),
}

/// Starts a VM that goes on with the memory of the hibernated one, and waits until it does.
///
/// # Errors
/// Why it does not run, where that is not the memory's fault: it is kept, unless the VM had gone on.
async fn awaken(
    host: &Arc<Host>,
    workspace: &Workspace,
    run: Option<RunRef>,
) -> Result<Awakening, Fault> {
    let vm = begin(host, workspace).await?;
    tell(host, run, "vm_waking", format!("waking the hibernated VM as {}", vm.id)).await;
    let origin = vm::Origin::Hibernated(workspace.id);
    let handle = vm::spawn(host, vm, IdlePolicy::of(workspace), origin);
    let hold = handle.hold()?;
    let Err(why) = handle.agent().await else { return Ok(Awakening::Done(handle, hold)) };
    if handle.state().termination().is_none() {
        // Somebody has paused it.
        return Err(why);
    }
    handle.ended().await;
    match handle.state() {
        VmState::Failed { termination } if speaks_of_memory(termination.code) => {
            Ok(Awakening::Hopeless(termination))
        }
        _ => Err(why),
    }
}

/// Whether an end with this code may have come of the memory that the VM was to go on with. Of the
/// others none would be spared a VM that boots.
const fn speaks_of_memory(code: Code) -> bool {
    !matches!(
        code,
        Code::DriverUnavailable
            | Code::NetworkFailed
            | Code::NoCapacity
            | Code::TemplateBroken
            | Code::WorkerLost
    )
}

/// A new VM of the workspace, on record.
async fn begin(host: &Arc<Host>, workspace: &Workspace) -> Result<Vm, Fault> {
    let now = host.now();
    let vm = Vm {
        id: VmId::new(),
        spec: workspace.spec.clone(),
        worker_id: host.id,
        workspace_id: Some(workspace.id),
        state: VmState::Creating,
        driver: None,
        accelerator: None,
        agent_transport: None,
        virtio_transport: None,
        address: None,
        timings: None,
        expires_at: None,
        created_at: now,
        updated_at: now,
    };
    host.queue.insert_workspace_vm(&vm).await?;
    Ok(vm)
}

async fn tell(host: &Arc<Host>, run: Option<RunRef>, stage: &str, message: String) {
    if let Some(run) = run {
        run::append(host, run, vec![status(stage, message)]).await;
    }
}

/// Hibernates a workspace's VM now; one that is hibernated stays so.
///
/// # Errors
/// [`Code::Conflict`]: it has no VM, or the VM is at work; or why its memory cannot be kept. The VM
/// goes on then.
pub(crate) async fn hibernate(host: &Arc<Host>, id: WorkspaceId) -> Result<Workspace, Fault> {
    let workspace = ready(host, id).await?;
    match workspace.vm_id().and_then(|vm| host.vms.get(vm).ok()) {
        Some(vm) => {
            vm.perform(Verb::Hibernate).await?;
            vm.ended().await;
        }
        None if hibernation::is_there(host, id) => {}
        None => {
            let detail = format!("workspace {} has no VM that could be hibernated", workspace.name);
            return Err(Fault::new(Code::Conflict, detail)
                .remedy("its files are on its disk; its next prompt starts a VM"));
        }
    }
    Ok(host.queue.store().workspace(id).await?)
}

/// Sees to it that a workspace has a VM that runs: the hibernated one, or one that boots.
///
/// # Errors
/// Why there is none.
pub(crate) async fn wake(host: &Arc<Host>, id: WorkspaceId) -> Result<Workspace, Fault> {
    ready(host, id).await?;
    let (vm, _hold) = ensure_vm(host, id, None).await?;
    vm.agent().await?;
    Ok(host.queue.store().workspace(id).await?)
}

/// A workspace that can be worked in.
///
/// # Errors
/// [`Code::Conflict`]: it is not made or prepared, or has failed.
pub(crate) async fn ready(host: &Arc<Host>, id: WorkspaceId) -> Result<Workspace, Fault> {
    let workspace = host.queue.store().workspace(id).await?;
    if workspace.state == WorkspaceState::Ready {
        return Ok(workspace);
    }
    let mut detail = format!("workspace {} is {}", workspace.name, workspace.state.as_str());
    let remedy = match &workspace.state {
        WorkspaceState::Failed { fault } => {
            let _ = write!(detail, ": {}", fault.detail);
            "correct what failed, and prepare it again (`aetherium ws retry`)"
        }
        _ => "wait until it is ready",
    };
    Err(Fault::new(Code::Conflict, detail).remedy(remedy))
}

/// Ends a VM, whether it has an actor or only a row.
pub(crate) async fn end_vm(host: &Arc<Host>, id: VmId, reason: Fault) -> Result<(), Fault> {
    if let Ok(handle) = host.vms.get(id) {
        handle.stop(reason).await;
        return Ok(());
    }
    let mut row = host.queue.store().vm(id).await?;
    if !row.state.is_terminal() {
        host.release_vm(id).await?;
        row.state = VmState::Stopped { termination: reason };
        row.updated_at = host.now();
        host.queue.update_vm(&row).await?;
    }
    Ok(())
}

/// Removes a workspace with its VM and its disk. The row goes last, so that a crash on the way
/// leaves a task that can do it again.
pub(crate) async fn remove(host: &Arc<Host>, id: WorkspaceId) -> Result<(), Fault> {
    let workspace = match host.queue.store().workspace(id).await {
        Ok(workspace) => workspace,
        Err(StoreError::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if let Some(vm) = workspace.vm_id() {
        end_vm(host, vm, Fault::new(Code::Requested, "its workspace is being deleted")).await?;
    }
    let _claim = host.disks.claim(id).await;
    let dir = host.layout.workspace(id);
    match tokio::fs::remove_dir_all(&dir).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(WorkerError::io(&dir, error).into());
        }
        _ => {}
    }
    host.templates.release(&Holder::Workspace(id)).map_err(WorkerError::from)?;
    host.queue.remove_workspace(id, host.now()).await?;
    Ok(())
}
