//! Workers: their leases and epochs, and what is reserved of them.

use crate::support::*;
use aetherium_model::{
    Fault, WorkerId,
    page::PageRequest,
    resources::Resources,
    room::Room,
    run::RunState,
    task::{Task, TaskKind, TaskState},
    vm::{Vm, VmState},
    worker::{Lease, Worker, WorkerState},
    workspace::{Workspace, WorkspaceState},
};
use aetherium_store::{Beat, Fence, Orders, RunRef, Store, StoreError};
use std::time::Duration;
use tokio::task::JoinSet;

/// Room for so many VMs of the usual size, and disk for more.
fn worker(vms: u32) -> Worker {
    let one = Room::of_vm(Resources::default());
    let room = Room {
        vcpus: one.vcpus * vms,
        memory_mib: one.memory_mib * u64::from(vms),
        disk_mib: one.disk_mib * 100,
        vms: 100,
    };
    Worker { capacity: room, allocatable: room, ..crate::lists::worker() }
}

/// One that may not go unheard for long.
fn short() -> Lease {
    Lease::try_from(Duration::from_secs(1)).unwrap()
}

async fn register(store: &Store, worker: &Worker) -> Fence {
    store.register_worker(worker, None).await.unwrap()
}

async fn reserved(store: &Store, worker: &Worker) -> Room {
    store.worker(worker.id).await.unwrap().reserved
}

async fn create(store: &Store, worker: WorkerId) -> Result<Vm, StoreError> {
    let vm = vm(worker, None);
    let task = task(worker, TaskKind::VmCreate { vm_id: vm.id });
    store.create_vm(&vm, &task, None).await.map(|created| created.into_inner())
}

async fn end(store: &Store, mut vm: Vm) {
    vm.state = VmState::Stopped { termination: Fault::internal("x") };
    store.update_vm(&vm).await.unwrap();
}

async fn what_gateways_promise_at_once_is_never_more_than_there_is(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = worker(5);
    let id = worker.id;
    register(&db.store, &worker).await;
    let other = db.reopened().await;
    let mut asking = JoinSet::new();
    for which in 0..24 {
        let gateway = if which % 2 == 0 { db.store.clone() } else { other.clone() };
        asking.spawn(async move { create(&gateway, id).await });
    }
    let (made, refused): (Vec<_>, Vec<_>) =
        asking.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (5, 19));
    for refusal in refused {
        let refusal = refusal.unwrap_err();
        assert!(
            matches!(&refusal, StoreError::NoRoom { why, .. } if why.contains("0 vCPUs")),
            "{refusal}"
        );
        assert_eq!(refusal.code(), aetherium_model::Code::NoCapacity);
    }
    let five = db.store.live_vms(worker.id).await.unwrap();
    assert_eq!(five.len(), 5, "a refused VM has left a row");
    assert_eq!(reserved(&db.store, &worker).await.vms, 5);

    // Its end makes room for just one, and once.
    let ended = made.into_iter().next().unwrap().unwrap();
    end(&db.store, ended.clone()).await;
    let again = Vm { state: VmState::Stopped { termination: Fault::internal("y") }, ..ended };
    db.store.update_vm(&again).await.unwrap_err();
    create(&db.store, worker.id).await.unwrap();
    create(&db.store, worker.id).await.unwrap_err();
}

async fn a_workspace_has_its_disk_for_as_long_as_it_lives_and_its_vm_the_rest(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = worker(1);
    let fence = register(&db.store, &worker).await;
    let store = db.store.clone().fenced(fence);
    let one = Room::of_vm(Resources::default());
    let disk = Room { disk_mib: one.disk_mib, ..Room::default() };
    let first = ready_workspace(&store, worker.id, "first").await;
    let second = ready_workspace(&store, worker.id, "second").await;
    assert_eq!(reserved(&store, &worker).await, disk.and(disk));

    let running = vm(worker.id, Some(first.id));
    store.insert_workspace_vm(&running).await.unwrap();
    assert_eq!(reserved(&store, &worker).await, one.and(disk));
    let crowded = vm(worker.id, Some(second.id));
    let refused = store.insert_workspace_vm(&crowded).await.unwrap_err();
    assert!(matches!(refused, StoreError::NoRoom { .. }), "{refused}");
    assert_eq!(store.workspace(second.id).await.unwrap().vm_id(), None);
    end(&store, running).await;
    store.insert_workspace_vm(&crowded).await.unwrap();
    end(&store, crowded).await;

    store.set_workspace_disk(second.id, "4096".parse().unwrap(), at(1)).await.unwrap();
    assert_eq!(reserved(&store, &worker).await.disk_mib, 3 * one.disk_mib);
    let delete = task(worker.id, TaskKind::WorkspaceDelete { workspace_id: second.id });
    store.begin_delete_workspace(second.id, &delete).await.unwrap();
    store.remove_workspace(second.id, at(9)).await.unwrap();
    assert_eq!(reserved(&store, &worker).await, disk);
}

async fn what_went_wrong_with_reservations_is_put_right_by_the_rows(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = worker(4);
    register(&db.store, &worker).await;
    ready_workspace(&db.store, worker.id, "w").await;
    create(&db.store, worker.id).await.unwrap();
    let right = reserved(&db.store, &worker).await;
    assert!(!db.store.recount_reservations(worker.id).await.unwrap());
    db.raw("UPDATE workers SET vms = 3, reserved_vcpus = 0, reserved_disk_mib = -7").await.unwrap();
    assert!(db.store.recount_reservations(worker.id).await.unwrap());
    assert_eq!(reserved(&db.store, &worker).await, right);
    db.raw("UPDATE workers SET reserved_memory_mib = 1").await.unwrap();
    register(&db.store, &worker).await;
    assert_eq!(reserved(&db.store, &worker).await, right, "a restart does not count anew");
}

async fn a_cordoned_or_draining_worker_is_promised_nothing_until_it_is_activated(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = worker(4);
    let fence = register(&db.store, &worker).await;
    let vm = create(&db.store, worker.id).await.unwrap();
    let state = |worker: Worker| worker.state;
    for _ in 0..2 {
        assert_eq!(
            state(db.store.cordon_worker(worker.id, at(9)).await.unwrap()),
            WorkerState::Cordoned
        );
    }
    let refused = create(&db.store, worker.id).await.unwrap_err();
    assert!(refused.to_string().contains("it is cordoned"), "{refused}");
    let beat = Beat::default();
    assert_eq!(db.store.heartbeat(fence, None, &beat).await.unwrap(), Orders::Work);

    let hour = Duration::from_secs(3600);
    let draining = db.store.drain_worker(worker.id, Some(hour), at(9)).await.unwrap();
    assert_eq!(state(draining), WorkerState::Draining);
    let Orders::Drain { left: Some(left) } = db.store.heartbeat(fence, None, &beat).await.unwrap()
    else {
        panic!("the worker is not told");
    };
    assert!(left <= hour && left > hour - Duration::from_secs(60), "{left:?}");
    // Its wishes outlive its process.
    register(&db.store, &worker).await;
    assert!(create(&db.store, worker.id).await.unwrap_err().to_string().contains("draining"));
    end(&db.store, vm).await;
    assert_eq!(state(db.store.worker(worker.id).await.unwrap()), WorkerState::Drained);
    for _ in 0..2 {
        assert_eq!(
            state(db.store.activate_worker(worker.id, at(9)).await.unwrap()),
            WorkerState::Active
        );
    }
    create(&db.store, worker.id).await.unwrap();
    let unknown = db.store.drain_worker(WorkerId::new(), None, at(9)).await;
    assert!(matches!(unknown, Err(StoreError::NotFound { .. })));
}

/// A worker of the fleet with a lease that has run out, and a store that is its own.
struct Silent {
    worker: Worker,
    fence: Fence,
    store: Store,
}

impl Silent {
    async fn with(db: &Db, fill: impl AsyncFnOnce(&Store, WorkerId)) -> Self {
        let worker = worker(4);
        let fence = db.store.register_worker(&worker, Some(short())).await.unwrap();
        let store = db.store.clone().fenced(fence);
        fill(&store, worker.id).await;
        // Nobody waits here for a lease to run out: it has.
        let past = "UPDATE workers SET lease_until = 1";
        db.raw(past).await.unwrap();
        Self { worker, fence, store }
    }
}

fn is_fenced<T: std::fmt::Debug>(result: Result<T, StoreError>) -> bool {
    matches!(result.unwrap_err(), StoreError::Fenced { .. })
}

async fn a_worker_that_is_heard_of_keeps_its_lease_and_one_that_is_not_is_gone(engine: Engine) {
    let db = Db::fresh(engine).await;
    let silent = Silent::with(&db, async |_, _| {}).await;
    let state = async || db.store.worker(silent.worker.id).await.unwrap().state;
    assert_eq!(state().await, WorkerState::Gone, "it is shown as what it is before anyone says so");
    let beat = Beat::default();
    db.store.heartbeat(silent.fence, Some(short()), &beat).await.unwrap();
    assert_eq!(state().await, WorkerState::Active);
    assert!(db.store.declare_gone(at(9)).await.unwrap().is_empty());
    create(&db.store, silent.worker.id).await.unwrap();

    db.raw("UPDATE workers SET lease_until = 1").await.unwrap();
    let gone = db.store.declare_gone(at(9)).await.unwrap();
    assert_eq!(gone.len(), 1);
    assert!(db.store.declare_gone(at(9)).await.unwrap().is_empty());
    assert!(is_fenced(db.store.heartbeat(silent.fence, Some(short()), &beat).await));
    assert_eq!(state().await, WorkerState::Gone);
    let listed = db.store.workers(&PageRequest::default()).await.unwrap().items;
    assert_eq!(listed[0].reserved, Room::default());

    let next = db.store.register_worker(&silent.worker, Some(short())).await.unwrap();
    assert!(next.epoch > silent.fence.epoch);
    assert_eq!(state().await, WorkerState::Active);
    db.store.set_worker_state(next, WorkerState::Stopped, at(9)).await.unwrap();
    db.raw("UPDATE workers SET lease_until = 1").await.unwrap();
    assert!(db.store.declare_gone(at(9)).await.unwrap().is_empty(), "it stopped in order");
}

async fn what_a_worker_writes_after_it_was_declared_gone_changes_nothing(engine: Engine) {
    let db = Db::fresh(engine).await;
    let mut made: Option<(Workspace, Vm, Task, Vm)> = None;
    let silent = Silent::with(&db, async |store, id| {
        let workspace = ready_workspace(store, id, "w").await;
        let running = vm(id, Some(workspace.id));
        store.insert_workspace_vm(&running).await.unwrap();
        for _ in 0..2 {
            add_prompt(store, &workspace).await;
        }
        let claimed = claim(store, id).await.unwrap();
        made = Some((workspace, running, claimed, create(store, id).await.unwrap()));
    })
    .await;
    let (workspace, running, claimed, alone) = made.unwrap();
    let gone = db.store.declare_gone(at(9)).await.unwrap().pop().unwrap();
    assert_eq!(gone.vms.len(), 2);
    // The VM's own task ended with it; the prompt that had not started waits again.
    assert_eq!(gone.tasks.iter().map(|it| it.kind.as_str()).collect::<Vec<_>>(), ["vm:create"]);
    for vm in [running.id, alone.id] {
        let state = db.store.vm(vm).await.unwrap().state;
        assert_eq!(state.termination().unwrap().code, aetherium_model::Code::WorkerLost);
    }
    assert_eq!(db.store.workspace(workspace.id).await.unwrap().vm_id(), None);
    assert_eq!(db.store.task(claimed.id).await.unwrap().state, TaskState::Queued);

    let old = &silent.store;
    let run = RunRef::of(&claimed.kind).unwrap();
    assert!(is_fenced(old.claim_waiting(silent.worker.id, 1, at(9), far()).await));
    assert!(is_fenced(old.start_run(run, Some(&claimed), running.id, at(9)).await));
    assert!(is_fenced(old.renew(&[claimed], far()).await));
    assert!(is_fenced(old.update_vm(&Vm { state: VmState::Running, ..running }).await));
    assert!(is_fenced(old.insert_workspace_vm(&vm(silent.worker.id, Some(workspace.id))).await));
    let ready = WorkspaceState::Ready;
    assert!(is_fenced(old.set_workspace_state(workspace.id, &ready, at(9)).await));
    assert_eq!(db.store.run_state(run).await.unwrap(), RunState::Queued);

    // The next tenure goes on with it.
    let next = register(&db.store, &silent.worker).await;
    let store = db.store.clone().fenced(next);
    store.insert_workspace_vm(&vm(silent.worker.id, Some(workspace.id))).await.unwrap();
    let again = claim(&store, silent.worker.id).await.unwrap();
    assert_eq!(start(&store, &again).await, run);
}

async fn a_start_mark_and_the_end_of_the_tenure_never_cross(engine: Engine) {
    let db = Db::fresh(engine).await;
    let others = db.reopened().await;
    for round in 0..12 {
        let mut claimed = None;
        let silent = Silent::with(&db, async |store, id| {
            let workspace = ready_workspace(store, id, &format!("w{round}")).await;
            add_prompt(store, &workspace).await;
            claimed = claim(store, id).await;
        })
        .await;
        let claimed = claimed.unwrap();
        let run = RunRef::of(&claimed.kind).unwrap();
        let vm = aetherium_model::VmId::new();
        let (mark, gone) = tokio::join!(
            silent.store.start_run(run, Some(&claimed), vm, at(1)),
            others.declare_gone(at(2)),
        );
        gone.unwrap();
        let state = db.store.run_state(run).await.unwrap();
        match mark {
            // What has its mark was seen by whoever ended the tenure.
            Ok(_) => assert_eq!(state.as_str(), "interrupted", "round {round}"),
            Err(StoreError::Fenced { .. }) => assert_eq!(state, RunState::Queued),
            Err(error) => panic!("{error}"),
        }
    }
}

async fn a_workspace_without_a_disk_goes_to_another_worker_and_others_give_up_in_time(
    engine: Engine,
) {
    let db = Db::fresh(engine).await;
    let mut made = None;
    let silent = Silent::with(&db, async |store, id| {
        let kept = ready_workspace(store, id, "kept").await;
        let waiting = add_prompt(store, &kept).await;
        let (bare, task) = workspace(id, "bare");
        store.create_workspace(&bare, &task, None).await.unwrap();
        made = Some((kept, waiting, bare));
    })
    .await;
    let (kept, waiting, bare) = made.unwrap();
    let heir = worker(4);
    register(&db.store, &heir).await;
    let from = silent.worker.id;
    assert!(!db.store.move_workspace(bare.id, from, heir.id).await.unwrap(), "it is not gone yet");
    db.raw("UPDATE workers SET lease_until = 1 WHERE lease_until IS NOT NULL").await.unwrap();
    db.store.declare_gone(at(9)).await.unwrap();
    let stranded = db.store.stranded_workspaces().await.unwrap();
    assert_eq!(stranded.iter().map(|it| it.id).collect::<Vec<_>>(), [bare.id]);
    assert!(db.store.move_workspace(bare.id, from, heir.id).await.unwrap());
    assert!(!db.store.move_workspace(bare.id, from, heir.id).await.unwrap());
    assert!(!db.store.move_workspace(kept.id, from, heir.id).await.unwrap(), "its disk is there");
    let task = claim(&db.store, heir.id).await.unwrap();
    assert_eq!(task.kind, TaskKind::WorkspaceCreate { workspace_id: bare.id });
    assert_eq!(reserved(&db.store, &heir).await.disk_mib, 2048);
    assert_eq!(reserved(&db.store, &silent.worker).await.disk_mib, 2048);

    let patience = Duration::from_secs(60);
    let later = at(i64::try_from(patience.as_millis()).unwrap() + 1);
    assert!(db.store.give_up_on_gone(patience, later).await.unwrap().is_empty(), "too early");
    db.raw("UPDATE workers SET gone_at = 1 WHERE state = 'gone'").await.unwrap();
    assert_eq!(db.store.give_up_on_gone(patience, later).await.unwrap().len(), 1);
    let RunState::Failed { fault } = db.store.prompt(waiting.id).await.unwrap().state else {
        panic!("it waits for ever");
    };
    assert_eq!(fault.code, aetherium_model::Code::WorkerLost);
}

on_both_engines! {
    what_gateways_promise_at_once_is_never_more_than_there_is
    a_workspace_has_its_disk_for_as_long_as_it_lives_and_its_vm_the_rest
    what_went_wrong_with_reservations_is_put_right_by_the_rows
    a_cordoned_or_draining_worker_is_promised_nothing_until_it_is_activated
    a_worker_that_is_heard_of_keeps_its_lease_and_one_that_is_not_is_gone
    what_a_worker_writes_after_it_was_declared_gone_changes_nothing
    a_start_mark_and_the_end_of_the_tenure_never_cross
    a_workspace_without_a_disk_goes_to_another_worker_and_others_give_up_in_time
}
