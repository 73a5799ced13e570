//! Starting a VM from a snapshot: checked before anything is touched, and running only once its
//! guest knows what time it is, who it is, and has random numbers of its own.

use super::{
    network,
    snapshot::{Snapshot, ground},
    start::{Started, agent_client, hostname, kernel_boot, silent},
};
use crate::{WorkerError, host::Host, journal::Journal};
use aetherium_agent_client::{AgentClient, AgentError};
use aetherium_agent_proto::system::MachineIdentity;
use aetherium_model::{Code, Fault, tuning::Tuning, vm::Vm};
use aetherium_vmm::{LaunchSpec, Machine, firecracker::plan::TransportChoice};
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
    let template = host.templates.get(&vm.spec.template).map_err(WorkerError::from)?;
    let theirs = &snapshot.record.manifest.ground;
    let virtio = vm.spec.transport.or(theirs.virtio_transport);
    let network = journal.slot.is_some();
    let disk = snapshot.overlay();
    let here = ground(host, &vm.spec, &template, virtio, network, disk.clone()).await?;
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
        // The snapshot brings it all.
        tuning: Tuning::default(),
        boot,
        network: vm.spec.network,
        vsock: host.settings.vsock,
        transport: virtio.map_or(TransportChoice::Auto, TransportChoice::Only),
        track_dirty_pages: false,
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
