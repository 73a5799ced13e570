//! What every part of a worker shares: its identity, files, queue, driver, and its VMs.

use crate::{
    WorkerError,
    digest::Digests,
    disk::DiskClaims,
    heartbeat::Told,
    hibernation::Promises,
    journal::Journal,
    layout::{Layout, replace_file},
    lease::Tenure,
    login::Logins,
    metrics::WorkerMetrics,
    vm::{VmHandle, probe_guest},
    volatile::{self, Volatile},
};
use aetherium_agent_proto::config::GuestNet;
use aetherium_catalog::Catalog;
use aetherium_image::{BlankDisks, Holder, InstalledTemplate, TemplateStore};
use aetherium_model::{
    Code, Fault, Name, Timestamp, VmId, WorkerId,
    finding::Finding,
    resources::DriverKind,
    room::Overcommit,
    vm::{AgentTransport, VmState},
    worker::{Labels, Lease},
};
use aetherium_net::{Prefix, Slots, SlotsConfig};
use aetherium_queue::{Queue, Topic};
use aetherium_vmm::{Chosen, Stray, Vmm, VsockChoice};
use std::{
    collections::{HashMap, HashSet},
    fs,
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What a VM leaves when it has ended: enough to see why.
pub(crate) const KEPT_FILES: [&str; 2] = ["console.log", "vmm.log"];
/// How often it is looked whether the last command has ended while the worker is stopping.
const QUIET_POLL: Duration = Duration::from_millis(50);
/// How long killed processes may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// What hibernated VMs may take of the disk where nobody says: 64 GiB.
const DEFAULT_HIBERNATION_BUDGET: u64 = 64 << 30;

/// The times and paths a worker goes by.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a VM may take from its VMM's start to its agent's first answer.
    pub boot_deadline: Duration,
    /// How long a guest may take to shut down before its VMM is killed.
    pub stop_grace: Duration,
    /// How long a cancelled command may take to end once it got TERM.
    pub cancel_grace: Duration,
    /// How long commands may go on once the worker was told to stop.
    pub drain_grace: Duration,
    /// Tasks worked on at once.
    pub max_in_flight: usize,
    /// Whether VMs get a virtio socket.
    pub vsock: VsockChoice,
    /// Whether VMs of a driver without a network of its own get one of the host's.
    pub slots: SlotChoice,
    /// What the memories of hibernated VMs may take of the disk, in bytes; a VM that would go beyond
    /// is stopped instead.
    pub hibernation_budget: u64,
    /// A directory in this host's memory: there the memory of a VM that was given secrets stands in
    /// clear while it is hibernated or woken.
    pub volatile_dir: PathBuf,
    /// The agent's binary, for the process driver.
    pub agent_binary: Option<PathBuf>,
    /// How long it may work unheard; for ever where absent, as beside its only gateway.
    pub lease: Option<Lease>,
    /// Where it stands.
    pub zone: Option<Name>,
    /// What its operator says of it.
    pub labels: Labels,
    /// How much more is promised of its machine than it has.
    pub overcommit: Overcommit,
    /// VMs at once, at most.
    pub max_vms: u32,
    /// The assistants and tools that workspaces may name.
    pub catalog: Arc<Catalog>,
}

/// VMs of one worker, where nobody says otherwise.
pub const DEFAULT_MAX_VMS: u32 = 4096;

/// Whether VMs get a part of the host's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlotChoice {
    /// Where this process may make one; else they are reached over vsock alone.
    #[default]
    Auto,
    /// No: the host's interfaces are not touched.
    Off,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            boot_deadline: Duration::from_secs(90),
            stop_grace: Duration::from_secs(10),
            cancel_grace: Duration::from_secs(5),
            drain_grace: Duration::from_secs(10),
            max_in_flight: 64,
            vsock: VsockChoice::Auto,
            slots: SlotChoice::Auto,
            hibernation_budget: DEFAULT_HIBERNATION_BUDGET,
            volatile_dir: volatile::DEFAULT.into(),
            agent_binary: None,
            lease: None,
            zone: None,
            labels: Labels::new(),
            overcommit: Overcommit::OWNERS_CHOICE,
            max_vms: DEFAULT_MAX_VMS,
            catalog: Arc::new(Catalog::built_in()),
        }
    }
}

/// A worker's common ground.
pub(crate) struct Host {
    pub(crate) id: WorkerId,
    pub(crate) layout: Layout,
    pub(crate) queue: Queue,
    pub(crate) templates: TemplateStore,
    pub(crate) blanks: BlankDisks,
    /// Who may use which workspace's disk.
    pub(crate) disks: DiskClaims,
    /// What snapshots' files hold.
    pub(crate) digests: Digests,
    /// Room for the memories that are being written of VMs that hibernate.
    pub(crate) hibernating: Promises,
    /// Where the memory of VMs that were given secrets stands in clear.
    pub(crate) volatile: Volatile,
    pub(crate) settings: Settings,
    pub(crate) vms: Registry,
    pub(crate) metrics: WorkerMetrics,
    pub(crate) driver: Result<Chosen, Fault>,
    /// Networks for VMs, or why there are none.
    pub(crate) slots: Result<Slots, String>,
    /// Logins under way.
    pub(crate) logins: Logins,
    /// Whether it may still work.
    pub(crate) tenure: Tenure,
    /// What the store knows of its templates.
    pub(crate) told: Told,
    /// Fires when the worker is to stop: nothing new begins.
    pub(crate) draining: CancellationToken,
    /// Kernels whose best accelerator is known; held while one is being learnt.
    pub(crate) learnt: tokio::sync::Mutex<HashSet<String>>,
}

impl Host {
    /// The present moment.
    #[expect(clippy::unused_self, reason = "the clock belongs to the host, like everything else")]
    pub(crate) fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }

    /// The driver.
    ///
    /// # Errors
    /// Why there is none on this host.
    pub(crate) fn driver(&self) -> Result<&Arc<dyn Vmm>, Fault> {
        self.driver.as_ref().map(|chosen| &chosen.vmm).map_err(Clone::clone)
    }

    /// Lets the driver find out how guests of this template's kernel run best here, once.
    pub(crate) async fn learn_accelerator(
        &self,
        template: &InstalledTemplate,
    ) -> Result<(), Fault> {
        let digest = template.manifest.kernel.image.sha256.clone();
        let mut learnt = self.learnt.lock().await;
        if !learnt.contains(&digest) {
            let initrd = self.layout.probes().join(format!("{digest}.initrd"));
            let guest = probe_guest(template, initrd.clone()).await?;
            let finding = self.driver()?.prepare(&guest).await;
            tracing::info!(template = %template.manifest.name, found = finding.found, "accelerator");
            let _ = tokio::fs::remove_file(initrd).await;
            learnt.insert(digest);
        }
        Ok(())
    }

    /// The VM's handle; one that was just asked for is waited for, up to the boot's deadline.
    ///
    /// # Errors
    /// It is not on this worker, or has ended.
    pub(crate) async fn vm_to_come(&self, id: VmId) -> Result<VmHandle, Fault> {
        let mut changes = self.queue.bus().subscribe(Topic::Vm(id));
        let deadline = Instant::now() + self.settings.boot_deadline;
        loop {
            let missing = match self.vms.get(id) {
                Ok(handle) => return Ok(handle),
                Err(missing) => missing,
            };
            let row = self.queue.store().vm(id).await?;
            if let Some(termination) = row.state.termination() {
                return Err(missing.evidence([termination.to_string()]));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(missing);
            }
            changes.changed(left).await;
        }
    }

    /// What a check of the driver finds now.
    pub(crate) async fn findings(&self) -> Vec<Finding> {
        match &self.driver {
            Ok(chosen) => chosen.vmm.preflight().await,
            Err(fault) => vec![Finding::fail(
                "driver",
                fault.detail.clone(),
                "without a driver no VM can start",
                fault.remedy.clone(),
            )],
        }
    }

    /// Kills whatever process still belongs to a VM, gives back what it took of the host, and
    /// removes its files but for the logs.
    pub(crate) async fn release_vm(&self, id: VmId) -> Result<(), WorkerError> {
        let dir = self.layout.vm(id);
        for stray in self.strays().await.into_iter().filter(|stray| stray.vm_id == id) {
            if let Err(error) = stray.kill(KILL_DEADLINE).await {
                tracing::error!(vm = %id, %error, "a stray process of the vm would not die");
            }
        }
        if let Ok(driver) = self.driver()
            && let Err(error) = driver.sweep(id, &dir).await
        {
            tracing::error!(vm = %id, %error, "something of the vm's driver is left");
        }
        self.release_slot(&dir).await?;
        self.volatile.remove(id)?;
        let cleaned = tokio::task::spawn_blocking(move || clean_vm_dir(&dir)).await;
        cleaned.unwrap_or_else(|error| {
            Err(WorkerError::io(Path::new("cleaning"), io::Error::other(error)))
        })?;
        Ok(self.templates.release(&Holder::Vm(id))?)
    }

    /// Gives back the slot that the journal in this directory tells of. Its failure is not the VM's: the
    /// next start of the worker finds the slot without a VM.
    async fn release_slot(&self, dir: &Path) -> Result<(), WorkerError> {
        let Some(slot) = Journal::read(dir)?.and_then(|journal| journal.slot) else {
            return Ok(());
        };
        let released = match &self.slots {
            Ok(slots) => slots.release(&slot).await.map_err(|error| error.to_string()),
            Err(why) => Err(why.clone()),
        };
        if let Err(error) = released {
            tracing::error!(vm = %slot.vm_id, slot = slot.number, error, "a slot is left behind");
        }
        Ok(())
    }

    /// Every living process of this worker's VMs, by VM.
    pub(crate) async fn strays(&self) -> Vec<Stray> {
        let root = self.layout.vms();
        match tokio::task::spawn_blocking(move || aetherium_vmm::strays(&root)).await {
            Ok(Ok(strays)) => strays,
            Ok(Err(error)) => {
                tracing::error!(%error, "the host's processes could not be looked through");
                Vec::new()
            }
            Err(error) => {
                tracing::error!(%error, "looking through the host's processes failed");
                Vec::new()
            }
        }
    }
}

/// What is said to whoever comes while the worker is stopping.
pub(crate) fn stopping() -> Fault {
    Fault::new(Code::Unavailable, "the worker is stopping and begins nothing new")
        .remedy("try again when it is back")
}

/// Removes all but the logs; the journal last, since it says that the rest may be there.
fn clean_vm_dir(dir: &Path) -> Result<(), WorkerError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(WorkerError::io(dir, error)),
    };
    for entry in entries {
        let path = entry.map_err(|error| WorkerError::io(dir, error))?.path();
        let name = path.file_name().unwrap_or_default();
        if KEPT_FILES.iter().any(|kept| name == *kept) || name == crate::journal::FILE {
            continue;
        }
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(|error| WorkerError::io(&path, error))?;
    }
    Journal::remove(dir)
}

/// Opens the pool of networks for VMs, where the driver needs one.
pub(crate) async fn open_slots(
    choice: SlotChoice,
    id: WorkerId,
    driver: &Result<Chosen, Fault>,
) -> Result<Slots, String> {
    let kind = driver.as_ref().map(|chosen| chosen.vmm.kind());
    match (choice, kind) {
        (SlotChoice::Off, _) => Err("networks were given up by --no-slots".to_owned()),
        (SlotChoice::Auto, Ok(DriverKind::Firecracker)) => {
            let opened = Slots::new(SlotsConfig::new(Prefix::of_worker(id))).await;
            opened.map_err(|error| {
                tracing::warn!(%error, "VMs get no network: their agents are reached over vsock alone");
                error.to_string()
            })
        }
        (SlotChoice::Auto, _) => Err("the driver brings a network of its own".to_owned()),
    }
}

/// The network that every guest sees, as its agent is told.
pub fn guest_net() -> GuestNet {
    let net = aetherium_net::GuestNet::COMMON;
    let cidr = format!("{}/{}", net.address, net.prefix);
    #[expect(clippy::expect_used, reason = "a constant, and a test below parses it")]
    let address_cidr = cidr.parse().expect("the common guest network is a valid one");
    GuestNet { address_cidr, gateway: Some(net.gateway), dns: vec![net.dns], routes: Vec::new() }
}

/// Reads the worker's id, or makes one on the first start.
pub(crate) fn identity(layout: &Layout) -> Result<WorkerId, WorkerError> {
    let path = layout.worker_id();
    match fs::read_to_string(&path) {
        Ok(content) => content.trim().parse().map_err(|_| WorkerError::BadIdentity {
            path,
            content: content.chars().take(64).collect(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = WorkerId::new();
            replace_file(&path, id.to_string().as_bytes())?;
            Ok(id)
        }
        Err(error) => Err(WorkerError::io(&path, error)),
    }
}

/// The VMs that have not ended, and the tasks of their actors.
#[derive(Default)]
pub(crate) struct Registry {
    handles: Mutex<HashMap<VmId, VmHandle>>,
    actors: TaskTracker,
    /// Fires when the VMs are left to themselves.
    left: CancellationToken,
}

impl Registry {
    /// Enters a VM and runs its actor.
    pub(crate) fn enter(&self, handle: VmHandle, actor: impl Future<Output = ()> + Send + 'static) {
        self.lock().insert(handle.id(), handle);
        self.actors.spawn(self.left.clone().run_until_cancelled_owned(actor));
    }

    /// Forgets a VM; its actor does this as it ends.
    pub(crate) fn remove(&self, id: VmId) {
        self.lock().remove(&id);
    }

    /// The VM's handle.
    ///
    /// # Errors
    /// It is not on this worker, or has ended.
    pub(crate) fn get(&self, id: VmId) -> Result<VmHandle, Fault> {
        self.lock().get(&id).cloned().ok_or_else(|| {
            Fault::new(Code::VmGone, format!("{id} does not run on this worker"))
                .remedy("look at the VM's state; start another one if it has ended")
        })
    }

    /// The VMs that have not ended.
    pub(crate) fn ids(&self) -> Vec<VmId> {
        self.lock().keys().copied().collect()
    }

    /// How many VMs have not ended.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.lock().len()).unwrap_or(u32::MAX)
    }

    /// Where each of them stands, and over what its agent is reached.
    pub(crate) fn seen(&self) -> Vec<(VmState, Option<AgentTransport>)> {
        self.lock().values().map(|vm| (vm.state(), vm.transport())).collect()
    }

    /// Waits until nobody uses any VM, but no longer than `at_most`.
    pub(crate) async fn quiet(&self, at_most: Duration) {
        let in_use = || self.lock().values().any(VmHandle::is_in_use);
        let deadline = Instant::now() + at_most;
        while in_use() && Instant::now() < deadline {
            tokio::time::sleep(QUIET_POLL).await;
        }
    }

    /// Ends every VM, all at once, and waits until nothing of them is left.
    pub(crate) async fn stop_all(&self, reason: &Fault) {
        let handles: Vec<VmHandle> = self.lock().values().cloned().collect();
        futures::future::join_all(handles.iter().map(|handle| handle.stop(reason.clone()))).await;
        self.actors.close();
        self.actors.wait().await;
    }

    /// Ends the actors and leaves their VMs as they are.
    pub(crate) async fn leave(&self) {
        self.left.cancel();
        self.actors.close();
        self.actors.wait().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<VmId, VmHandle>> {
        // A panic elsewhere cannot leave the map half changed: each use is one operation.
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_told_the_network_that_the_driver_gives_it() {
        let told = guest_net();
        assert_eq!(told.address_cidr.to_string(), "172.16.0.2/24");
        assert_eq!(told.gateway, Some(aetherium_net::GuestNet::COMMON.gateway));
    }

    #[test]
    fn a_worker_keeps_its_identity_and_refuses_a_damaged_one() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(&dir.path().join("data")).unwrap();
        let first = identity(&layout).unwrap();
        assert_eq!(identity(&layout).unwrap(), first);
        fs::write(layout.worker_id(), "scribble").unwrap();
        assert!(identity(&layout).unwrap_err().to_string().contains("scribble"));
    }
}
