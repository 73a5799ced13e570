//! Starting a VM from a snapshot: checked before anything is touched, and running only once its
//! guest knows what time it is, who it is, and has random numbers of its own.

use super::{
    base, network,
    snapshot::{Devices, Snapshot, ground},
    start::{Started, agent_client, hostname, kernel_boot, silent},
};
use crate::{WorkerError, host::Host, journal::Journal};
use aetherium_agent_client::{AgentClient, AgentError};
use aetherium_agent_proto::system::MachineIdentity;
use aetherium_model::{Code, Fault, vm::Vm};
use aetherium_vmm::{LaunchSpec, Machine, VsockChoice, firecracker::plan::TransportChoice};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// How long a restored agent may take to answer: it was only stopped.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Random bytes that a restored guest is given: as many as its generator's key and some more.
const ENTROPY_BYTES: usize = 64;

/// A snapshot that fits a VM, and what to start the VM with.
pub(super) struct Prepared {
    snapshot: Snapshot,
    spec: LaunchSpec,
}

/// Checks that the snapshot fits, and makes the VM's disk.
pub(super) async fn prepare(
    host: &Arc<Host>,
    vm: &Vm,
    journal: &Journal,
    snapshot: Snapshot,
) -> Result<Prepared, Fault> {
    let template = base::held(host, vm)?;
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
    let disk = snapshot.overlay();
    let here = ground(host, &vm.spec, &template, devices, disk.clone()).await?;
    theirs.check(&here)?;

    let run_dir = host.layout.vm(vm.id);
    let overlay = run_dir.join(super::start::OVERLAY);
    aetherium_image::copy_sparse(&disk, &overlay).await.map_err(WorkerError::from)?;
    // Nothing boots: the initramfs is only looked at.
    let boot = kernel_boot(&template, template.initramfs(), overlay);
    let spec = LaunchSpec {
        vm_id: vm.id,
        run_dir,
        resources: vm.spec.resources,
        boot,
        network: vm.spec.network,
        vsock,
        transport: virtio.map_or(TransportChoice::Auto, TransportChoice::Only),
        snapshots: vm.spec.snapshots.or(template.manifest.snapshots),
        slot: journal.slot.clone(),
    };
    Ok(Prepared { snapshot, spec })
}

impl Prepared {
    /// Loads the snapshot. The guest is paused then.
    pub(super) async fn load(&self, host: &Host) -> Result<Arc<dyn Machine>, Fault> {
        Ok(host.driver()?.restore(&self.spec, &self.snapshot.files()).await?)
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
    if let Err(error) = agent.wait_ready(ANSWER_DEADLINE).await {
        return Err(silent(machine.as_ref(), &error, began.elapsed()).await);
    }
    let answered = began.elapsed();
    Box::pin(renew(host, vm, &agent, journal)).await?;
    Ok(Started { agent, boot: answered, agent_took: began.elapsed() - answered })
}

/// What a guest that was copied must have of its own.
async fn renew(host: &Host, vm: &Vm, agent: &AgentClient, journal: &Journal) -> Result<(), Fault> {
    let system = agent.system();
    let entropy = rand::random::<[u8; ENTROPY_BYTES]>();
    Box::pin(system.reseed(&entropy)).await.map_err(refused)?;
    Box::pin(system.set_clock(SystemTime::now())).await.map_err(refused)?;
    let driver = host.driver()?.kind();
    let identity = MachineIdentity {
        hostname: Some(hostname(vm)),
        network: network::seen_by_guest(driver, journal.slot.as_ref()),
    };
    Box::pin(system.set_identity(identity)).await.map_err(refused)
}

/// A guest that cannot be made another must not run: it would be the one it was copied from.
fn refused(error: AgentError) -> Fault {
    Fault::new(Code::AgentLost, format!("the restored guest could not be made another: {error}"))
        .remedy("take a new snapshot with an agent of this version inside")
}
