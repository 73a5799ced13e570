//! The workers as handlers need them: which takes a new VM, and which owns an old one.
//!
//! The decision itself is [`crate::placement`]'s; this reads the rows and fills in defaults.

use crate::{Error, Gateway, api, gateway::now, placement};
use aetherium_model::{
    Digest, Name, TemplateRef, WorkerId,
    page::{MAX_PAGE, PageRequest},
    recipe::Base,
    resources::{DiskMib, MemoryMib, NetworkMode, Resources, Vcpus, VirtioTransport},
    task::{Task, TaskKind},
    template::Template,
    tuning::{Misfit, Tuning},
    vm::{SnapshotKind, Vm, VmSpec},
    worker::{Worker, WorkerState},
};

/// What a creator said of a VM; the rest is defaults.
pub(crate) struct Wanted {
    pub(crate) template: Option<TemplateRef>,
    pub(crate) vcpus: Option<Vcpus>,
    pub(crate) memory_mib: Option<MemoryMib>,
    pub(crate) disk_mib: Option<DiskMib>,
    pub(crate) tuning: Tuning,
    pub(crate) network: Option<NetworkMode>,
    pub(crate) transport: Option<VirtioTransport>,
    pub(crate) snapshot: Option<Name>,
    pub(crate) snapshots: Option<SnapshotKind>,
}

/// Chooses a worker for what is wanted, and says what it then is to be.
pub(crate) async fn place(gateway: &Gateway, wanted: Wanted) -> Result<(Worker, VmSpec), Error> {
    let template = match wanted.template {
        Some(template) => template,
        None => api::DEFAULT_TEMPLATE.parse().map_err(|e| Error::Defect(format!("{e}")))?,
    };
    let workers = all(gateway).await?;
    let worker = placement::place(&workers, &template, now())?.clone();
    let held = held_by(gateway, &worker, &template).await;
    // What its tag means now is what it gets, whatever it means once the worker comes to it. A
    // snapshot has a template of its own.
    let template_digest = match &wanted.snapshot {
        None => held.as_ref().and_then(|it| Digest::from_hex(&it.digest).ok()),
        Some(_) => None,
    };
    let defaults = held.as_ref().map(|it| it.defaults).unwrap_or_default();
    let resources = Resources {
        vcpus: wanted.vcpus.unwrap_or(defaults.vcpus),
        memory_mib: wanted.memory_mib.unwrap_or(defaults.memory_mib),
        disk_mib: wanted.disk_mib.unwrap_or(defaults.disk_mib),
    };
    let (network, transport) = (wanted.network.unwrap_or_default(), wanted.transport);
    let (snapshot, snapshots) = (wanted.snapshot, wanted.snapshots);
    let tuning = match (&snapshot, held) {
        (None, Some(template)) => wanted.tuning.or(template.tuning),
        _ => wanted.tuning,
    };
    tuning.check(resources.memory_mib).map_err(misfit)?;
    let spec = VmSpec {
        template,
        template_digest,
        resources,
        tuning,
        network,
        transport,
        snapshot,
        snapshots,
    };
    Ok((worker, spec))
}

/// The problem of a field that does not fit the VM's size.
pub(crate) fn misfit(Misfit { field, problem }: Misfit) -> Error {
    Error::field(field, problem)
}

/// Chooses a worker to build a template on: one that holds the base, where that is a template.
pub(crate) async fn place_build(gateway: &Gateway, base: &Base) -> Result<WorkerId, Error> {
    let workers = all(gateway).await?;
    let worker = match base {
        Base::Template(template) => placement::place(&workers, template, now())?,
        Base::Image(_) | Base::Packages(_) => placement::place_anywhere(&workers, now())?,
    };
    Ok(worker.id)
}

/// The worker that owns a VM.
pub(crate) async fn owner(gateway: &Gateway, vm: &Vm) -> Result<Worker, Error> {
    Ok(gateway.store().worker(vm.worker_id).await?)
}

/// The workers whose internal API should answer.
pub(crate) async fn answering(gateway: &Gateway) -> Result<Vec<Worker>, Error> {
    let now = now();
    let mut workers = all(gateway).await?;
    workers.retain(|worker| {
        matches!(worker.state_at(now), WorkerState::Active | WorkerState::Draining)
    });
    Ok(workers)
}

/// A task for `worker_id`, not yet written.
pub(crate) fn task(worker_id: WorkerId, kind: TaskKind) -> Task {
    Task { trace: aetherium_telemetry::here(), ..Task::new(worker_id, kind, now()) }
}

pub(crate) async fn all(gateway: &Gateway) -> Result<Vec<Worker>, Error> {
    let mut workers = Vec::new();
    let mut page = PageRequest { limit: MAX_PAGE, after: None };
    loop {
        let rows = gateway.store().workers(&page).await?;
        workers.extend(rows.items);
        match rows.next_cursor {
            Some(cursor) => page.after = Some(cursor),
            None => return Ok(workers),
        }
    }
}

/// The template as this worker holds it, if it says so.
async fn held_by(gateway: &Gateway, worker: &Worker, wanted: &TemplateRef) -> Option<Template> {
    if !worker.holds(wanted) {
        return None;
    }
    match gateway.workers().template(worker, wanted).await {
        Ok(template) => Some(template),
        Err(fault) => {
            tracing::warn!(%fault, "a template's defaults cannot be read");
            None
        }
    }
}
