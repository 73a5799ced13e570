//! A workspace on its worker: its disk, and its VM on demand.

use crate::{
    WorkerError,
    handler::status,
    host::Host,
    layout::private_dir,
    run,
    vm::{self, Hold, VmHandle},
};
use aetherium_image::Holder;
use aetherium_model::{
    Code, Fault, VmId, WorkspaceId,
    placement::WhenFull,
    vm::{Vm, VmState},
    workspace::Workspace,
};
use aetherium_store::{RunRef, StoreError};
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

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

/// How often it is tried again to start a VM that there was no room for, give or take a half.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The workspace's VM, held: the one it has, or a new one. Prompts of one workspace come one at a
/// time, so no two of these run at once for it. Where its worker has no room, it is waited for as long as
/// the workspace says.
pub(crate) async fn ensure_vm(
    host: &Arc<Host>,
    workspace: &Workspace,
    run: RunRef,
) -> Result<(VmHandle, Hold), Fault> {
    // That would not change by waiting.
    host.driver()?;
    let patience = workspace.when_full.unwrap_or(WhenFull::OF_PROMPTS).patience();
    let deadline = Instant::now() + patience;
    let mut was_told = false;
    loop {
        let refused = match find_or_start(host, workspace, run).await {
            Err(fault) if fault.code == Code::NoCapacity => fault,
            done => return done,
        };
        let pause = TRY_AGAIN.mul_f64(0.5 + rand::random::<f64>());
        if Instant::now() + pause >= deadline {
            return Err(refused.remedy(
                "send it again later, or let the workspace's prompts wait longer with when_full",
            ));
        }
        if !was_told {
            was_told = true;
            let wait = format!("waiting for {} s at most: {}", patience.as_secs(), refused.detail);
            run::append(host, run, vec![status("waiting_for_room", wait)]).await;
        }
        tokio::time::sleep(pause).await;
    }
}

async fn find_or_start(
    host: &Arc<Host>,
    workspace: &Workspace,
    run: RunRef,
) -> Result<(VmHandle, Hold), Fault> {
    // Whoever works on the disk without a VM holds this until that is done.
    let _claim = host.disks.claim(workspace.id).await;
    if let Some(id) = workspace.vm_id
        && let Ok(handle) = host.vms.get(id)
    {
        if let Ok(hold) = handle.hold()
            && handle.state().termination().is_none()
        {
            return Ok((handle, hold));
        }
        // It is on its way out and has the workspace's disk until it is gone.
        handle.ended().await;
    }
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
    run::append(host, run, vec![status("vm_starting", format!("starting {}", vm.id))]).await;
    let idle = Duration::from_secs(workspace.idle_timeout_s.into());
    let idle = (!idle.is_zero()).then_some(idle);
    let handle = vm::spawn(host, vm, idle, vm::Origin::Fresh);
    let hold = handle.hold()?;
    Ok((handle, hold))
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
    if let Some(vm) = workspace.vm_id {
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
