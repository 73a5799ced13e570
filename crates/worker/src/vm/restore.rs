//! Starting a VM from a snapshot: checked before anything is touched, and running only once its
//! guest knows what time it is, who it is, and has random numbers of its own.

use super::{
    base,
    guest::intact,
    network, sealed,
    snapshot::{Devices, Snapshot, ground},
    start::{Started, agent_client, answer_deadline, hostname, kernel_boot, silent},
};
use crate::{WorkerError, host::Host, journal::Journal, secrets};
use aetherium_agent_client::{AgentClient, AgentError};
use aetherium_agent_proto::system::MachineIdentity;
use aetherium_model::{Code, Fault, WorkspaceId, tuning::Tuning, vm::Vm};
use aetherium_vmm::{
    LaunchSpec, Machine, Mismatch, SnapshotFiles, VsockChoice, firecracker::plan::TransportChoice,
};
use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::Arc,
    time::{Instant, SystemTime},
};

/// Random bytes that a restored guest is given: as many as its generator's key and some more.
const ENTROPY_BYTES: usize = 64;
/// The memory that was made of several snapshots', in the VM's directory until it is loaded.
const MEMORY: &str = "whole-memory";

/// A snapshot that fits a VM, and what to start the VM with.
pub(super) struct Prepared {
    files: SnapshotFiles,
    /// Those of them that were made for this VM alone.
    made: Vec<PathBuf>,
    spec: LaunchSpec,
}

/// Checks that the snapshot fits, and makes the VM's memory and disk. What does not fit is refused
/// before anything is made.
pub(super) async fn prepare(
    host: &Arc<Host>,
    vm: &Vm,
    journal: &Journal,
    snapshot: Snapshot,
) -> Result<Prepared, Fault> {
    let template = base::held(host, vm)?;
    intact(&template)?;
    host.learn_accelerator(&template).await?;
    let theirs = &snapshot.record.manifest.ground;
    let virtio = vm.spec.transport.or(theirs.virtio_transport);
    // One that had none gets none; one that had one must find one.
    let vsock = match theirs.vsock {
        true => host.settings.vsock,
        false => VsockChoice::Off,
    };
    let devices = Devices {
        accelerator: host.driver()?.accelerator(&template.kernel()),
        virtio_transport: virtio,
        vsock: vsock == VsockChoice::Auto,
        network: journal.slot.is_some(),
    };
    let source = disk_for(snapshot.record.workspace, vm.workspace_id)?;
    theirs.check(&ground(host, &vm.spec, &template, devices).await?)?;
    let bases = snapshot.bases(host)?;
    let disk = match source {
        DiskSource::Copy => snapshot.overlay(),
        DiskSource::Workspace(id) => host.layout.workspace_disk(id),
    };
    snapshot.check_machine(host, &template, &disk).await?;
    snapshot.check_memory(host, "memory").await?;
    for base in &bases {
        base.check_memory(host, "base.memory").await?;
    }

    let run_dir = host.layout.vm(vm.id);
    let overlay = match source {
        DiskSource::Copy => {
            let overlay = run_dir.join(super::start::OVERLAY);
            aetherium_image::copy_sparse(&disk, &overlay).await.map_err(WorkerError::from)?;
            overlay
        }
        DiskSource::Workspace(_) => disk,
    };
    let volatile = host.volatile.make(vm.id)?;
    let (files, made) = match (&snapshot.record.sealed, vm.workspace_id, &volatile) {
        (Some(envelope), Some(workspace), Some(dir)) => {
            secrets::note_given(host, vm.id)?;
            let files = sealed::decrypt(host, workspace, envelope, snapshot.files(), dir).await?;
            let made = vec![files.memory.clone(), files.state.clone()];
            (files, made)
        }
        (Some(_), _, _) => return Err(sealed::nowhere()),
        (None, _, _) if bases.is_empty() => (snapshot.files(), Vec::new()),
        (None, _, _) => {
            let memory = whole_memory(&snapshot, &bases, run_dir.join(MEMORY)).await?;
            (SnapshotFiles { memory: memory.clone(), ..snapshot.files() }, vec![memory])
        }
    };
    // Nothing boots: the initramfs is only looked at.
    let boot = kernel_boot(&template, template.initramfs(), overlay);
    let spec = LaunchSpec {
        vm_id: vm.id,
        run_dir,
        resources: vm.spec.resources,
        // The snapshot brings it all.
        tuning: Tuning::default(),
        boot,
        network: vm.spec.network,
        vsock,
        transport: virtio.map_or(TransportChoice::Auto, TransportChoice::Only),
        snapshots: vm.spec.snapshots.or(template.manifest.snapshots),
        slot: journal.slot.clone(),
        volatile,
    };
    Ok(Prepared { files, made, spec })
}

/// Where a restored VM's writable disk comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DiskSource {
    /// It is a copy of the snapshot's.
    Copy,
    /// It is this workspace's, which has not been written to since.
    Workspace(WorkspaceId),
}

/// The disk for a VM that starts from a snapshot of a workspace's VM, or of one without. Only the
/// workspace itself may have its disk, and it has no other.
fn disk_for(
    theirs: Option<WorkspaceId>,
    ours: Option<WorkspaceId>,
) -> Result<DiskSource, Mismatch> {
    match (theirs, ours) {
        (None, None) => Ok(DiskSource::Copy),
        (Some(theirs), Some(ours)) if theirs == ours => Ok(DiskSource::Workspace(ours)),
        _ => {
            let text =
                |it: Option<WorkspaceId>| it.map_or_else(|| "none".to_owned(), |it| it.to_string());
            let (theirs, ours) = (text(theirs), text(ours));
            Err(Mismatch { field: "workspace".to_owned(), theirs, ours })
        }
    }
}

/// Makes one memory of a diff and those below it, `bases` with the next one first.
async fn whole_memory(
    snapshot: &Snapshot,
    bases: &[Snapshot],
    path: PathBuf,
) -> Result<PathBuf, Fault> {
    let mut layers = bases.iter().rev().chain([snapshot]).map(|it| it.files().memory);
    if let Some(lowest) = layers.next() {
        aetherium_image::copy_sparse(&lowest, &path).await.map_err(WorkerError::from)?;
    }
    for layer in layers {
        aetherium_image::lay_over(&layer, &path).await.map_err(WorkerError::from)?;
    }
    // For any jail to read: the directories above keep others out.
    let readable = Permissions::from_mode(0o644);
    tokio::fs::set_permissions(&path, readable)
        .await
        .map_err(|error| WorkerError::io(&path, error))?;
    Ok(path)
}

impl Prepared {
    /// Loads the snapshot. The guest is paused then.
    pub(super) async fn load(&self, host: &Host) -> Result<Arc<dyn Machine>, Fault> {
        let loaded = host.driver()?.restore(&self.spec, &self.files).await?;
        for file in &self.made {
            // The VMM has it open, or a name of its own for it, or needs it no more.
            tokio::fs::remove_file(file).await.map_err(|error| WorkerError::io(file, error))?;
        }
        Ok(loaded)
    }
}

/// Lets a loaded guest go on, and makes it this VM.
pub(super) async fn awaken(
    host: &Host,
    vm: &Vm,
    machine: &Arc<dyn Machine>,
    journal: &Journal,
) -> Result<Started, Fault> {
    let began = Instant::now();
    machine.resume().await?;
    let agent = agent_client(machine.footprint(), &journal.token);
    let deadline = answer_deadline(machine.footprint().accelerator);
    if let Err(error) = agent.wait_ready(deadline).await {
        return Err(silent(machine.as_ref(), &error, began.elapsed()).await);
    }
    let answered = began.elapsed();
    Box::pin(renew(host, vm, &agent, journal)).await?;
    Ok(Started { agent, boot: answered, agent_took: began.elapsed() - answered })
}

/// What a guest that was copied must have of its own. Done twice it is done.
pub(super) async fn renew(
    host: &Host,
    vm: &Vm,
    agent: &AgentClient,
    journal: &Journal,
) -> Result<(), Fault> {
    let system = agent.system();
    let entropy = rand::random::<[u8; ENTROPY_BYTES]>();
    let driver = host.driver()?.kind();
    let identity = MachineIdentity {
        hostname: Some(hostname(vm)),
        network: network::seen_by_guest(driver, journal.slot.as_ref()),
    };
    // None depends on another, and each is a way to the guest and back.
    let renewed = tokio::try_join!(
        Box::pin(system.reseed(&entropy)),
        Box::pin(system.set_clock(SystemTime::now())),
        Box::pin(system.set_identity(identity)),
    );
    renewed.map(drop).map_err(refused)
}

/// A guest that cannot be made another must not run: it would be the one it was copied from.
fn refused(error: AgentError) -> Fault {
    Fault::new(Code::AgentLost, format!("the restored guest could not be made another: {error}"))
        .remedy("take a new snapshot with an agent of this version inside")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspaces_disk_goes_to_that_workspace_and_to_nobody_else() {
        let (one, other) = (WorkspaceId::new(), WorkspaceId::new());
        assert_eq!(disk_for(None, None), Ok(DiskSource::Copy));
        assert_eq!(disk_for(Some(one), Some(one)), Ok(DiskSource::Workspace(one)));
        for (theirs, ours) in [(Some(one), None), (Some(one), Some(other)), (None, Some(one))] {
            assert_eq!(disk_for(theirs, ours).unwrap_err().field, "workspace");
        }
    }
}
