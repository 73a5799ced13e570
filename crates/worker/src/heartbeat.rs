//! Telling the rest of the system that this worker lives, what it has, and how much it does; and hearing
//! what it is to do.

use crate::{Settings, host::Host, lease::Moment};
use aetherium_image::TemplateStore;
use aetherium_model::{
    Code, Fault, HeldTemplate, Timestamp, WorkerId,
    resources::{DriverKind, Resources},
    room::Room,
    vm::VmState,
    worker::{Admission, Capability, HEARTBEAT, Usage, Worker, WorkerState},
};
use aetherium_store::{Beat, Orders, StoreError};
use aetherium_vmm::Chosen;
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How often a worker that is being drained says how far it is, and goes on with it.
const DRAINING_BEAT: Duration = Duration::from_secs(1);

/// What a worker is made of, as far as it tells of it.
pub(crate) struct Described<'a> {
    pub(crate) id: WorkerId,
    pub(crate) address: &'a str,
    pub(crate) root: &'a Path,
    pub(crate) driver: &'a Result<Chosen, Fault>,
    pub(crate) has_slots: bool,
    pub(crate) templates: &'a TemplateStore,
    pub(crate) settings: &'a Settings,
    pub(crate) now: Timestamp,
}

/// The worker as it enters the registry. It takes work only once it says so.
pub(crate) fn describe(it: &Described<'_>) -> Worker {
    let (driver, driver_reason) = match it.driver {
        Ok(chosen) => (Some(chosen.vmm.kind()), chosen.reason.clone()),
        Err(fault) => (None, fault.to_string()),
    };
    let capacity = capacity(driver, it);
    Worker {
        id: it.id,
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        driver,
        driver_reason,
        internal_address: it.address.to_owned(),
        templates: templates(it.templates),
        zone: it.settings.zone.clone(),
        labels: it.settings.labels.clone(),
        capabilities: capabilities(driver, it.has_slots),
        capacity,
        allocatable: it.settings.overcommit.of(capacity),
        reserved: Room::default(),
        usage: Usage::default(),
        admission: Admission::default(),
        state: WorkerState::Starting,
        created_at: it.now,
        heartbeat_at: it.now,
    }
}

/// What the machine has for VMs.
fn capacity(driver: Option<DriverKind>, it: &Described<'_>) -> Room {
    let vms = it.settings.max_vms;
    if driver == Some(DriverKind::Simulated) {
        // Its VMs take nothing of the machine: it holds as many as it may, of the usual size.
        return Room::of_vm(Resources::default()).times(vms);
    }
    Room {
        vcpus: std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        memory_mib: meminfo_mib("MemTotal:"),
        disk_mib: disk(it.root).0,
        vms,
    }
}

fn capabilities(driver: Option<DriverKind>, has_slots: bool) -> BTreeSet<Capability> {
    let is_vmm = matches!(driver, Some(DriverKind::Firecracker | DriverKind::Qemu));
    let has_kvm = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    let all = [
        (Capability::Kvm, has_kvm),
        (Capability::Pci, is_vmm),
        (Capability::Snapshots, is_vmm),
        (Capability::Slots, has_slots),
    ];
    all.into_iter().filter(|(_, has)| *has).map(|(capability, _)| capability).collect()
}

/// Sends heartbeats until `shutdown`, and does what the answers say.
pub(crate) async fn keep(host: Arc<Host>, shutdown: CancellationToken) {
    let every = host.tenure.lease.map_or(HEARTBEAT, |lease| lease.heartbeat());
    loop {
        // Not all workers of a fleet at once.
        let pause = match beat(&host).await {
            Some(Orders::Drain { left }) => {
                drain(&host, left).await;
                every.min(DRAINING_BEAT)
            }
            Some(Orders::Work) | None => every.mul_f64(0.8 + 0.2 * rand::random::<f64>()),
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Says what the worker has now, without waiting for the next time it would. Returns what it is to do,
/// if it was heard.
pub(crate) async fn beat(host: &Arc<Host>) -> Option<Orders> {
    let tenure = &host.tenure;
    let held = templates(&host.templates);
    let usage = usage(host.layout.root());
    let beat = Beat { usage, templates: host.told.news(&held) };
    let sent = Moment::now();
    let heard = host.queue.store().heartbeat(tenure.fence, tenure.lease, &beat);
    // A heartbeat that takes longer than the lease renews nothing, and the next one may get through.
    let patience = tenure.lease.map_or(HEARTBEAT, |lease| lease.lasts() / 2);
    match tokio::time::timeout(patience, heard).await {
        Ok(Ok(orders)) => {
            tenure.renewed(sent);
            host.metrics.heard_of(host.now());
            host.told.told(held);
            Some(orders)
        }
        Ok(Err(error @ StoreError::Fenced { .. })) => {
            tracing::error!(%error, "this worker's tenure is over");
            tenure.end();
            None
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "the heartbeat could not be written");
            None
        }
        Err(_) => {
            tracing::warn!(?patience, "the heartbeat was not answered");
            None
        }
    }
}

/// Ends what a drained worker need not keep: workspaces' VMs in which nothing runs, which are hibernated
/// where their workspaces want that and stopped elsewhere, and all of them when
/// no time is left.
async fn drain(host: &Arc<Host>, left: Option<Duration>) {
    let rows = match host.queue.store().live_vms(host.id).await {
        Ok(rows) => rows,
        Err(error) => {
            tracing::warn!(%error, "the VMs to drain cannot be read");
            return;
        }
    };
    for row in rows {
        // One without an actor is being made, or ends by itself.
        let Ok(handle) = host.vms.get(row.id) else { continue };
        let reason = Fault::new(Code::Drained, "its worker is being drained");
        if left.is_some_and(|left| left.is_zero()) {
            handle.ask_to_stop(reason);
        } else if row.workspace_id.is_some() && row.state == VmState::Running {
            handle.rest_if_unused(reason);
        }
    }
}

/// Says that the worker is about to stop, or has.
pub(crate) async fn announce(host: &Arc<Host>, state: WorkerState) {
    let (store, fence) = (host.queue.store(), host.tenure.fence);
    if let Err(error) = store.set_worker_state(fence, state, host.now()).await {
        tracing::warn!(%error, state = state.as_str(), "the worker's state could not be written");
    }
}

/// The templates that the store was told of last: they are told again only when there are others.
#[derive(Default)]
pub(crate) struct Told(Mutex<Option<Vec<HeldTemplate>>>);

impl Told {
    fn news(&self, held: &[HeldTemplate]) -> Option<Vec<HeldTemplate>> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (told.as_deref() != Some(held)).then(|| held.to_vec())
    }

    fn told(&self, held: Vec<HeldTemplate>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
    }
}

fn templates(store: &TemplateStore) -> Vec<HeldTemplate> {
    match store.announced() {
        Ok(held) => held,
        Err(error) => {
            tracing::warn!(%error, "the templates could not be listed");
            Vec::new()
        }
    }
}

fn usage(root: &Path) -> Usage {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Option<f64> = load.split_whitespace().next().and_then(|it| it.parse().ok());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a load average")]
    let load_percent = load.map_or(0, |load| (load * 100.0) as u32);
    let memory_mib = meminfo_mib("MemTotal:").saturating_sub(meminfo_mib("MemAvailable:"));
    Usage { load_percent, memory_mib, disk_mib: disk(root).1 }
}

/// What the filesystem of the data directory has, and what of it is in use, in MiB.
fn disk(root: &Path) -> (u64, u64) {
    let Ok(it) = rustix::fs::statvfs(root) else { return (0, 0) };
    let mib = |blocks: u64| blocks.saturating_mul(it.f_frsize) / (1024 * 1024);
    (mib(it.f_blocks), mib(it.f_blocks.saturating_sub(it.f_bfree)))
}

/// A line of /proc/meminfo (proc(5): in KiB).
fn meminfo_mib(line: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = text.lines().find_map(|it| it.strip_prefix(line));
    let kib = value.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
