//! The workers as handlers need them: which takes a new VM, and which owns an old one.
//!
//! The decision itself is [`crate::placement`]'s; this reads the rows, fills in defaults, and tries those
//! chosen until one has it.

use crate::{
    Error, Gateway, api,
    gateway::now,
    placement::{self, Need, NoPlace},
    registry::Age,
};
use aetherium_model::{
    Digest, Name, TemplateRef, WorkerId,
    placement::{Placement, WhenFull},
    recipe::Base,
    resources::{DiskMib, MemoryMib, NetworkMode, Resources, Vcpus, VirtioTransport},
    room::Room,
    task::{Task, TaskKind},
    template::Template,
    tuning::{Misfit, Tuning},
    vm::{SnapshotKind, Vm, VmSpec},
    worker::Worker,
    workspace::Workspace,
};
use aetherium_store::StoreError;
use rand::seq::IndexedRandom as _;
use std::time::{Duration, Instant};

/// How often it is tried again to place what waits for room, give or take a half.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// How often a choice is made anew when those chosen had no room any more.
const CHOICES: u32 = 3;

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
    pub(crate) placement: Placement,
    pub(crate) when_full: WhenFull,
    pub(crate) takes: Takes,
}

/// What of its worker something takes as it is made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Takes {
    /// All that a VM needs.
    Vm,
    /// A workspace's disk. Its VM takes the rest when it starts.
    Disk,
}

impl Takes {
    fn need(self, size: Resources) -> Need {
        match self {
            Self::Vm => Need { now: Room::of_vm(size), later: Room::default() },
            Self::Disk => {
                Need { now: Room::of_workspace(size.disk_mib), later: Room::of_workspace_vm(size) }
            }
        }
    }
}

/// Has something made on the worker that is best for it, or on the next where that has no room any more.
/// Where none has, it waits for as long as its creator wants.
pub(crate) async fn place<T, Made: Future<Output = Result<T, StoreError>>>(
    gateway: &Gateway,
    wanted: Wanted,
    make: impl Fn(WorkerId, VmSpec) -> Made,
) -> Result<T, Error> {
    let deadline = Instant::now() + wanted.when_full.patience();
    let mut waiting = None;
    loop {
        let refused = match place_now(gateway, &wanted, &make).await {
            Err(error) if error.is_want_of_room() => error,
            done => return done,
        };
        let pause = TRY_AGAIN.mul_f64(0.5 + rand::random::<f64>());
        if Instant::now() + pause >= deadline {
            return Err(refused);
        }
        // It holds its connection meanwhile, like a stream.
        if waiting.is_none() {
            waiting = Some(gateway.stream_permit()?);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = gateway.stopping().cancelled() => return Err(Error::Stopping),
        }
    }
}

async fn place_now<T, Made: Future<Output = Result<T, StoreError>>>(
    gateway: &Gateway,
    wanted: &Wanted,
    make: &impl Fn(WorkerId, VmSpec) -> Made,
) -> Result<T, Error> {
    let spec = spec(gateway, wanted).await?;
    let need = wanted.takes.need(spec.resources);
    let wanted = placement::Wanted { template: &spec.template, need, placement: &wanted.placement };
    let mut refused = None;
    for _ in 0..CHOICES {
        let age = if refused.is_none() { Age::Moment } else { Age::None };
        for worker in choose(gateway, age, &wanted).await? {
            match make(worker, spec.clone()).await {
                Ok(made) => {
                    gateway.registry().promised(worker, need.now);
                    return Ok(made);
                }
                Err(StoreError::NoRoom { worker, wanted, why }) => {
                    tracing::debug!(%worker, %wanted, why, "another one was faster");
                    refused = Some(StoreError::NoRoom { worker, wanted, why });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Err(refused.map_or_else(|| Error::Defect("no choice was made".to_owned()), Error::from))
}

/// The workers to try, best first. That there are none is never concluded from old rows.
async fn choose(
    gateway: &Gateway,
    age: Age,
    wanted: &placement::Wanted<'_>,
) -> Result<Vec<WorkerId>, Error> {
    let ask = |rows: &[Worker]| -> Result<Vec<WorkerId>, NoPlace> {
        let chosen = placement::place(rows, wanted, &mut rand::rng())?;
        Ok(chosen.into_iter().map(|worker| worker.id).collect())
    };
    match gateway.registry().ask(gateway, age, ask).await? {
        Err(_) if age == Age::Moment => {}
        chosen => return Ok(chosen?),
    }
    Ok(gateway.registry().ask(gateway, Age::None, ask).await??)
}

/// What a VM is to be, with its template's defaults for what nobody said.
async fn spec(gateway: &Gateway, wanted: &Wanted) -> Result<VmSpec, Error> {
    let template = match &wanted.template {
        Some(template) => template.clone(),
        None => api::DEFAULT_TEMPLATE.parse().map_err(|e| Error::Defect(format!("{e}")))?,
    };
    let held = held_by(gateway, &holder(gateway, &template).await?, &template).await;
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
    let (snapshot, snapshots) = (wanted.snapshot.clone(), wanted.snapshots);
    let tuning = match (&snapshot, held) {
        (None, Some(template)) => wanted.tuning.or(template.tuning),
        _ => wanted.tuning,
    };
    tuning.check(resources.memory_mib).map_err(misfit)?;
    Ok(VmSpec {
        template,
        template_digest,
        resources,
        tuning,
        network,
        transport,
        snapshot,
        snapshots,
    })
}

/// A worker that holds a template: whichever, so that none is asked more than others.
async fn holder(gateway: &Gateway, template: &TemplateRef) -> Result<Worker, Error> {
    let ask = |rows: &[Worker]| {
        let holders = placement::holders(rows, template)?;
        let any = holders.choose(&mut rand::rng()).copied().cloned();
        any.ok_or(NoPlace::NoWorker { seen: Vec::new() })
    };
    if let Ok(holder) = gateway.registry().ask(gateway, Age::Moment, ask).await? {
        return Ok(holder);
    }
    Ok(gateway.registry().ask(gateway, Age::None, ask).await??)
}

/// Gives a workspace without a disk, whose worker is gone, to another. Returns which, if one took it.
pub(crate) async fn move_stranded(
    gateway: &Gateway,
    workspace: &Workspace,
) -> Result<Option<WorkerId>, Error> {
    let need = Takes::Disk.need(workspace.spec.resources);
    let (template, placement) = (&workspace.spec.template, &workspace.placement);
    let wanted = placement::Wanted { template, need, placement };
    let Some(to) = choose(gateway, Age::Moment, &wanted).await?.first().copied() else {
        return Ok(None);
    };
    let moved = gateway.queue().move_workspace(workspace.id, workspace.worker_id, to).await?;
    Ok(moved.then_some(to))
}

/// The problem of a field that does not fit the VM's size.
pub(crate) fn misfit(Misfit { field, problem }: Misfit) -> Error {
    Error::field(field, problem)
}

/// Chooses a worker to build a template on: one that holds the base, where that is a template.
pub(crate) async fn place_build(gateway: &Gateway, base: &Base) -> Result<WorkerId, Error> {
    let workers = gateway.store().every_worker().await?;
    let able = match base {
        Base::Template(template) => placement::holders(&workers, template)?,
        Base::Image(_) | Base::Packages(_) => placement::able(&workers)?,
    };
    let worker = able.into_iter().min_by_key(|worker| (worker.reserved.vms, worker.id));
    Ok(worker.ok_or(NoPlace::NoWorker { seen: Vec::new() })?.id)
}

/// The worker that owns a VM.
pub(crate) async fn owner(gateway: &Gateway, vm: &Vm) -> Result<Worker, Error> {
    Ok(gateway.store().worker(vm.worker_id).await?)
}

/// The workers whose internal API should answer.
pub(crate) async fn answering(gateway: &Gateway) -> Result<Vec<Worker>, Error> {
    let mut workers = gateway.store().every_worker().await?;
    workers.retain(|worker| worker.state.answers());
    Ok(workers)
}

/// A task for `worker_id`, not yet written.
pub(crate) fn task(worker_id: WorkerId, kind: TaskKind) -> Task {
    Task { trace: aetherium_telemetry::here(), ..Task::new(worker_id, kind, now()) }
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
