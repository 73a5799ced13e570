//! The first thing a worker does: bring what an earlier process of it left in line. Every minute it
//! looks again ([`recheck`]).
//!
//! Compared are the store's rows, the journals, and the processes that carry our mark:
//!
//! | row | journal and process | then |
//! | --- | --- | --- |
//! | creating, by a task | whatever | released; the task makes it anew |
//! | alive | its VMM lives and its agent answers | taken over: it runs on, or its start goes on |
//! | pausing, paused, resuming | its VMM lives | taken over: it is paused |
//! | the same | its memory was being written to hibernate it | taken over: it runs on |
//! | the same | its memory is written | released; the row ends as `hibernated` |
//! | alive | anything else | released; the row ends as `not_adopted` |
//! | stopping | whatever | released; the row ends as it was meant to |
//! | ended, or none | left-overs | released |
//!
//! Logs of VMs whose record was removed go too. Workspace disks are never touched here. Tasks and runs
//! of the earlier process are the delivery loop's, which starts after this.

use crate::{
    WorkerError, hibernation,
    host::Host,
    journal::Journal,
    vm::{self, IdlePolicy, Machinery, Origin, agent_client},
};
use aetherium_agent_client::AgentClient;
use aetherium_model::{
    Code, Fault, VmId,
    task::LEASE,
    template::ImageDefaults,
    vm::{Vm, VmState},
};
use aetherium_net::Orphan;
use aetherium_store::StoreError;
use aetherium_vmm::{Footprint, Machine};
use std::{collections::HashSet, fs, sync::Arc, time::Duration};

/// What was done, for the log.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) adopted: usize,
    pub(crate) ended: usize,
    pub(crate) swept: usize,
}

/// Brings rows, journals, processes and files in line.
pub(crate) async fn reconcile(host: &Arc<Host>) -> Result<Report, WorkerError> {
    let mut report = Report::default();
    let rows = host.queue.store().live_vms(host.id).await?;
    let live: HashSet<VmId> = rows.iter().map(|row| row.id).collect();
    for row in rows {
        if row.state == VmState::Creating && row.workspace_id.is_none() {
            // Its task is handed out again and makes it anew.
            host.release_vm(row.id).await?;
            continue;
        }
        match take_over(host, &row).await {
            Ok(machinery) => {
                adopt(host, row, machinery).await?;
                report.adopted += 1;
            }
            Err(why) => {
                end(host, row, why).await?;
                report.ended += 1;
            }
        }
    }
    let orphans = orphans(host).await?;
    release_slots(host, &orphans).await;
    report.swept = sweep(host, &live).await? + orphans.len();
    Ok(report)
}

/// Tries to take over the VM of a row; the fault says why it cannot be.
async fn take_over(host: &Arc<Host>, row: &Vm) -> Result<Machinery, Fault> {
    let refuse = |detail: String| {
        Fault::new(Code::NotAdopted, format!("the worker restarted, and {detail}"))
            .remedy("start another VM; a workspace does so with its next prompt")
    };
    let may_live = matches!(
        row.state,
        VmState::Booting
            | VmState::Running
            | VmState::Pausing
            | VmState::Paused
            | VmState::Resuming
    );
    if !may_live {
        return Err(refuse(format!("the VM was {}", row.state.as_str())));
    }
    let journal = Journal::read(&host.layout.vm(row.id))?;
    let Some((mut journal, footprint)) =
        journal.and_then(|journal| journal.footprint.clone().map(|it| (journal, it)))
    else {
        return Err(refuse("no journal tells of the VM's processes".to_owned()));
    };
    if let Some(id) = row.workspace_id.filter(|id| hibernation::is_there(host, *id)) {
        // It must not go on: its memory is what the workspace goes on with.
        return Err(match is_frozen(row) {
            true => Fault::new(Code::Hibernated, format!("its memory is kept for {id}")),
            false => refuse("the VM had not gone on yet with the memory it was to have".to_owned()),
        });
    }
    let (agent, image) = (agent_client(&footprint, &journal.token), journal.image.clone());
    // What runs in a VM is lost with it: a slow guest is waited for as long as at any other time.
    let patience = vm::deadlines(footprint.accelerator).dial;
    let machine = adopt_machine(host, footprint)
        .await?
        .ok_or_else(|| refuse("the VM's process had ended".to_owned()))?;
    if is_frozen(row) {
        // Whichever way it was going, this is where it stands then.
        machine.pause().await?;
        if was_hibernating(host, row) {
            machine.give_up_snapshot().await?;
            machine.resume().await?;
            return answering(machine, agent, image, patience).await.map_err(refuse);
        }
        if machine.pause_forgets_written_pages() {
            journal.diff_base = journal.diff_base.forgotten();
            journal.write(&host.layout)?;
        }
        return Ok(Machinery { machine, agent, image });
    }
    answering(machine, agent, image, patience).await.map_err(refuse)
}

/// The VM, once its agent has answered; else what it did not do.
async fn answering(
    machine: Arc<dyn Machine>,
    agent: AgentClient,
    image: ImageDefaults,
    patience: Duration,
) -> Result<Machinery, String> {
    match agent.wait_ready(patience).await {
        Ok(_) => Ok(Machinery { machine, agent, image }),
        Err(error) => Err(format!("its agent did not answer: {error}")),
    }
}

/// Whether the VM stands still only because its memory was being written.
fn was_hibernating(host: &Host, row: &Vm) -> bool {
    is_frozen(row)
        && row.workspace_id.is_some_and(|id| hibernation::aside(host, id, row.id).exists())
}

/// Whether the VM was frozen, or on its way in or out.
fn is_frozen(row: &Vm) -> bool {
    matches!(row.state, VmState::Pausing | VmState::Paused | VmState::Resuming)
}

async fn adopt_machine(
    host: &Host,
    footprint: Footprint,
) -> Result<Option<Arc<dyn Machine>>, Fault> {
    Ok(host.driver()?.adopt(footprint).await?)
}

/// Hands a VM that lives to a new actor.
async fn adopt(host: &Arc<Host>, mut row: Vm, machinery: Machinery) -> Result<(), WorkerError> {
    let idle = match row.workspace_id {
        Some(id) => match host.queue.store().workspace(id).await {
            Ok(workspace) => IdlePolicy::of(&workspace),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        },
        None => None,
    };
    if was_hibernating(host, &row) {
        // Before what tells of it is swept away.
        row.state = VmState::Running;
        host.queue.update_vm(&row).await?;
        if let Some(id) = row.workspace_id {
            hibernation::sweep_one(host, id);
        }
    }
    if is_frozen(&row) {
        row.state = VmState::Paused;
        host.queue.update_vm(&row).await?;
    } else {
        // The actor takes it from here with the agent's answer, which we have.
        row.state = VmState::Booting;
        row.agent_transport = machinery.agent.transport().map(vm::transport);
    }
    // The VM has its files open, and goes on whatever comes of this.
    if let Err(fault) = vm::hold_for_adopted(host, &row) {
        tracing::warn!(vm = %row.id, %fault, "the template of the vm is not held");
    }
    tracing::info!(vm = %row.id, "taken over");
    let id = row.id;
    let at_work = !host.queue.store().unfinished_runs(id).await?.is_empty();
    let handle = vm::spawn(host, row, idle, Origin::Adopted(machinery));
    if at_work {
        // Its tasks are handed out once all is in line; until then nobody holds it.
        handle.expect_use(LEASE);
    }
    Ok(())
}

/// Ends a row whose VM cannot be taken over, after releasing what is left of it.
async fn end(host: &Arc<Host>, mut row: Vm, why: Fault) -> Result<(), WorkerError> {
    tracing::info!(vm = %row.id, reason = %why, "not taken over");
    host.release_vm(row.id).await?;
    row.state = match row.state {
        VmState::Stopping { termination } => VmState::Stopped { termination },
        _ if why.code == Code::Hibernated => VmState::Stopped { termination: why },
        _ => VmState::Failed { termination: why },
    };
    row.updated_at = host.now();
    host.queue.update_vm(&row).await?;
    Ok(())
}

/// Releases what belongs to no live VM: left-overs of ended ones, and strays without a row.
async fn sweep(host: &Arc<Host>, live: &HashSet<VmId>) -> Result<usize, WorkerError> {
    let mut swept = 0;
    for stray in host.strays().await {
        if !live.contains(&stray.vm_id) {
            tracing::warn!(vm = %stray.vm_id, "a process without a VM is ended");
            host.release_vm(stray.vm_id).await?;
            swept += 1;
        }
    }
    for id in kept_directories(host)?.filter(|id| !live.contains(id)) {
        host.release_vm(id).await?;
    }
    for id in host.volatile.vms() {
        // Of one that lives nothing is on its way any more: what the VMM needs, it has open.
        match live.contains(&id) && host.vms.get(id).is_ok() {
            true => host.volatile.clear(id),
            false => host.volatile.remove(id)?,
        }
    }
    Ok(swept + forget_pruned(host).await?)
}

/// Slots that no VM's journal knows: those of VMs that a crash caught between two steps, or that are
/// just being made.
async fn orphans(host: &Arc<Host>) -> Result<Vec<Orphan>, WorkerError> {
    let Ok(slots) = &host.slots else { return Ok(Vec::new()) };
    let mut known = Vec::new();
    for id in host.vms.ids() {
        known.extend(Journal::read(&host.layout.vm(id))?.and_then(|journal| journal.slot));
    }
    Ok(slots.orphans(&known).await.unwrap_or_else(|error| {
        tracing::error!(%error, "the host's slots could not be listed");
        Vec::new()
    }))
}

async fn release_slots(host: &Arc<Host>, orphans: &[Orphan]) {
    let Ok(slots) = &host.slots else { return };
    for orphan in orphans {
        if let Err(error) = slots.release_orphan(orphan).await {
            tracing::error!(slot = orphan.number, %error, "a slot without a VM is left");
        }
    }
}

/// What did not fit together when it was last looked at. What is being made or ended right then does not
/// either, so only what is found twice is put right.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    /// Rows that live, without an actor.
    rows: HashSet<VmId>,
    /// Actors whose row has ended, or is gone.
    actors: HashSet<VmId>,
    /// Processes of VMs without an actor.
    strays: HashSet<VmId>,
    /// Slots that no journal knows, by number.
    slots: HashSet<u32>,
}

/// Compares rows, actors, processes and slots of a worker at work, and counts its reservations.
pub(crate) async fn recheck(host: &Arc<Host>, known: &mut Suspects) -> Result<(), WorkerError> {
    if host.tenure.check().is_err() {
        return Ok(());
    }
    let store = host.queue.store();
    store.recount_reservations(host.id).await?;
    let rows = store.live_vms(host.id).await?;
    let actors: HashSet<VmId> = host.vms.ids().into_iter().collect();
    let live: HashSet<VmId> = rows.iter().map(|row| row.id).collect();
    let strays = host.strays().await;

    // One that its own task makes has no actor until that begins.
    let is_waiting = |row: &Vm| row.state == VmState::Creating && row.workspace_id.is_none();
    let lone = rows.iter().filter(|row| !is_waiting(row) && !actors.contains(&row.id));
    let found_again = again(&mut known.rows, lone.map(|row| row.id).collect());
    for row in rows.into_iter().filter(|row| found_again.contains(&row.id)) {
        end(host, row, Fault::internal("the worker has lost track of the VM")).await?;
    }
    for id in again(&mut known.actors, actors.difference(&live).copied().collect()) {
        tracing::warn!(vm = %id, "a vm whose row has ended is stopped");
        if let Ok(handle) = host.vms.get(id) {
            handle.ask_to_stop(Fault::internal("its row had ended"));
        }
    }
    let homeless = strays.iter().map(|stray| stray.vm_id).filter(|id| !actors.contains(id));
    for id in again(&mut known.strays, homeless.collect()) {
        tracing::warn!(vm = %id, "a process without a VM is ended");
        host.release_vm(id).await?;
    }
    let mut orphans = orphans(host).await?;
    let found_again = again(&mut known.slots, orphans.iter().map(|it| it.number).collect());
    orphans.retain(|orphan| found_again.contains(&orphan.number));
    release_slots(host, &orphans).await;
    Ok(())
}

/// What is found now and was before; what is found now is remembered.
fn again<T: Copy + Eq + std::hash::Hash>(before: &mut HashSet<T>, now: HashSet<T>) -> HashSet<T> {
    let again = now.intersection(before).copied().collect();
    *before = now;
    again
}

/// Removes the directories of VMs whose record is gone, with their logs. A VM that is just being
/// made has its record before its directory.
pub(crate) async fn forget_pruned(host: &Arc<Host>) -> Result<usize, WorkerError> {
    let mut forgotten = 0;
    for id in kept_directories(host)? {
        if let Err(StoreError::NotFound { .. }) = host.queue.store().vm(id).await {
            let path = host.layout.vm(id);
            fs::remove_dir_all(&path).map_err(|error| WorkerError::io(&path, error))?;
            forgotten += 1;
        }
    }
    Ok(forgotten)
}

/// The VMs that have a directory.
fn kept_directories(host: &Host) -> Result<impl Iterator<Item = VmId>, WorkerError> {
    let root = host.layout.vms();
    let entries = fs::read_dir(&root).map_err(|error| WorkerError::io(&root, error))?;
    let names: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    Ok(names.into_iter().filter_map(|name| name.to_str()?.parse().ok()))
}
