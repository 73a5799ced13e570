//! The event log: told with each change and of no other, and read without missing any.

use crate::support::*;
use aetherium_model::{
    Code, Fault, VmId, WorkerId,
    event::{Actor, By, Event, EventFilter, EventType, Subject, SubjectKind},
    task::TaskKind,
    vm::VmState,
    worker::{Epoch, WorkerState},
};
use aetherium_store::{Fence, LogBounds, RunRef, Store};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

async fn all(store: &Store) -> Vec<Event> {
    store.history(&EventFilter::default(), 0, 500).await.unwrap().items
}

fn kinds(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}

async fn create_vm(store: &Store, worker: WorkerId) -> VmId {
    let vm = vm(worker, None);
    let create = task(worker, TaskKind::VmCreate { vm_id: vm.id });
    store.create_vm(&vm, &create, None).await.unwrap();
    vm.id
}

async fn each_change_is_told_with_its_cause_and_actor(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let actor = Actor::ApiKey("0123456789ab".into());
    let request_id = Some("req_1".to_owned());
    let by = By { actor: actor.clone(), request_id: request_id.clone(), ..By::default() };
    let (caller, worker_store) =
        (db.store.on_behalf_of(by), db.store.on_behalf_of(By::worker(worker)));

    let workspace = ready_workspace(&caller, worker, "w").await;
    let prompt = add_prompt(&caller, &workspace).await;
    let claimed = claim(&worker_store, worker).await.unwrap();
    let run = start(&worker_store, &claimed).await;
    let _ = worker_store.finish_run(run, completed(), at(2)).await.unwrap();

    let mut told = all(&db.store).await;
    let prompts = told.split_off(told.len() - 3);
    assert_eq!(kinds(&told), ["workspace.ready", "task.queued", "task.succeeded"]);
    assert_eq!(kinds(&prompts), ["prompt.queued", "prompt.running", "prompt.completed"]);
    for event in &prompts {
        assert_eq!(event.subject, Subject::Prompt(prompt.id));
        assert_eq!(event.workspace_id, Some(workspace.id));
        assert_eq!(event.cause.task_id, Some(prompt.task_id));
    }
    assert_eq!((&prompts[0].actor, &prompts[0].cause.request_id), (&actor, &request_id));
    assert_eq!((&prompts[1].actor, &prompts[1].cause.request_id), (&Actor::Worker(worker), &None));
    assert_eq!(prompts[2].data.exit_code, Some(3));
    assert!(prompts.iter().map(|event| event.seq).eq(4..=6), "{prompts:?}");
}

async fn a_vm_tells_each_state_once_and_why_it_ended(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let id = create_vm(&db.store, worker).await;
    let mut vm = db.store.vm(id).await.unwrap();
    vm.state = VmState::Running;
    // Something else than its state changes too.
    for accelerator in ["kvm", "tcg"] {
        vm.accelerator = Some(accelerator.into());
        db.store.update_vm(&vm).await.unwrap();
    }
    let termination = Fault::new(Code::Idle, "nothing ran in it for 5 s");
    vm.state = VmState::Stopped { termination };
    db.store.update_vm(&vm).await.unwrap();
    db.store.update_vm(&vm).await.unwrap_err();

    let filter = EventFilter { subject: Some(SubjectKind::Vm), ..EventFilter::default() };
    let told = db.store.history(&filter, 0, 9).await.unwrap().items;
    assert_eq!(kinds(&told), ["vm.creating", "vm.running", "vm.stopped"]);
    assert_eq!(told[2].data.reason.as_ref().unwrap().code, Code::Idle);
    assert_eq!(told[0].data.worker_id, Some(worker));
}

async fn what_was_not_done_is_not_told(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "taken").await;
    let before = all(&db.store).await.len();
    let (again, create) = crate::support::workspace(worker, "taken");
    db.store.create_workspace(&again, &create, None).await.unwrap_err();
    let full = db.reopened().await.with_max_queued(0);
    let (prompt, execute) = prompt(&workspace, "echo");
    full.create_prompt(&prompt, &execute, None).await.unwrap_err();
    let vm = vm(worker, None);
    let create = task(worker, TaskKind::VmCreate { vm_id: vm.id });
    full.create_vm(&vm, &create, None).await.unwrap_err();
    let fence = Fence { worker_id: worker, epoch: Epoch(1) };
    db.store.set_worker_state(fence, WorkerState::Stopped, at(1)).await.unwrap_err();
    assert_eq!(all(&db.store).await.len(), before);
}

async fn a_retried_task_and_a_lost_prompt_are_told(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    add_prompt(&db.store, &workspace).await;
    let claimed = claim(&db.store, worker).await.unwrap();
    let why = Fault::new(Code::Unavailable, "the agent is away");
    db.store.requeue(&claimed, at(0), Some(&why), at(1)).await.unwrap();
    let claimed = claim(&db.store, worker).await.unwrap();
    let run = start(&db.store, &claimed).await;
    let _ = db.store.crash_task(&claimed, &Fault::internal("boom"), at(2)).await.unwrap();
    assert_eq!(db.store.run_state(run).await.unwrap().as_str(), "interrupted");
    let told = all(&db.store).await;
    let last: Vec<_> = kinds(&told).split_off(3);
    assert_eq!(last, ["prompt.queued", "task.retried", "prompt.running", "prompt.interrupted"]);
    assert_eq!(told[4].data.reason.as_ref().unwrap().code, Code::Unavailable);
}

/// A change that began before others may be committed after them, when readers have passed those.
async fn a_change_that_commits_late_is_behind_what_was_read(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let first = create_vm(&db.store, worker).await;
    let page = db.store.history(&EventFilter::default(), 0, 9).await.unwrap();
    assert_eq!(page.reached, 2);
    // As a transaction leaves it that began long ago: with an earlier place, and no number.
    db.raw(&format!(
        "INSERT INTO event_log (id, ordinal, at, type, subject_kind, subject_id, actor_json, \
         data_json) VALUES ('late', -5, 0, 'vm.booting', 'vm', '{first}', '{{\"kind\":\"system\"}}', '{{}}')"
    ))
    .await
    .unwrap();
    let rest = db.store.history(&EventFilter::default(), page.reached, 9).await.unwrap();
    assert_eq!(kinds(&rest.items), ["vm.booting"]);
    assert_eq!((rest.items[0].seq, rest.reached), (3, 3));
}

async fn readers_among_writers_see_every_event_once_and_in_order(engine: Engine) {
    const WRITERS: usize = 6;
    const VMS: usize = 12;
    let db = Db::fresh(engine).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = db.reopened().await;
        writers.spawn(async move {
            let worker = WorkerId::new();
            for _ in 0..VMS {
                let id = create_vm(&store, worker).await;
                let mut vm = store.vm(id).await.unwrap();
                // Each writer's clock goes its own way, and backwards.
                for (step, state) in [VmState::Booting, VmState::Running].into_iter().enumerate() {
                    vm.updated_at = at(1_000 * (writer as i64) - 7 * step as i64);
                    vm.state = state;
                    store.update_vm(&vm).await.unwrap();
                }
            }
        });
    }
    static WRITTEN: [AtomicBool; 2] = [AtomicBool::new(false), AtomicBool::new(false)];
    let written = &WRITTEN[usize::from(engine == Engine::Postgres)];
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let store = db.reopened().await;
        readers.spawn(async move {
            let (mut seen, mut after) = (Vec::new(), 0);
            loop {
                let all_written = written.load(Ordering::SeqCst);
                let page = store.history(&EventFilter::default(), after, 7).await.unwrap();
                if page.items.is_empty() && all_written {
                    return seen;
                }
                after = page.reached;
                seen.extend(page.items);
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    written.store(true, Ordering::SeqCst);
    for seen in readers.join_all().await {
        let events = (WRITERS * VMS * 4) as i64;
        assert!(seen.iter().map(|event| event.seq).eq(1..=events), "a gap, or one twice");
        let mut lives: BTreeMap<String, Vec<EventType>> = BTreeMap::new();
        for event in seen.iter().filter(|event| event.subject.kind() == SubjectKind::Vm) {
            lives.entry(event.subject.id()).or_default().push(event.kind);
        }
        assert_eq!(lives.len(), WRITERS * VMS);
        for (vm, life) in lives {
            let in_order = [EventType::VmCreating, EventType::VmBooting, EventType::VmRunning];
            assert_eq!(life, in_order, "{vm}");
        }
    }
}

async fn a_filter_names_all_that_an_event_must_meet(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let one = ready_workspace(&db.store, worker, "one").await;
    let two = ready_workspace(&db.store, worker, "two").await;
    let prompt = add_prompt(&db.store, &one).await;
    add_prompt(&db.store, &two).await;
    let found = async |filter: EventFilter| {
        let page = db.store.history(&filter, 0, 50).await.unwrap();
        // Read to the end, whatever was found.
        assert_eq!(page.reached, 8);
        page.items.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>()
    };
    let none = EventFilter::default();
    assert_eq!(found(none.clone()).await.len(), 8);
    let of_one = EventFilter { workspace_id: Some(one.id), ..none.clone() };
    let whole = ["workspace.ready", "task.queued", "task.succeeded", "prompt.queued"];
    assert_eq!(found(of_one.clone()).await, whole);
    let types = vec![EventType::PromptQueued, EventType::TaskQueued];
    assert_eq!(found(EventFilter { types: types.clone(), ..of_one }).await, [whole[1], whole[3]]);
    assert_eq!(found(EventFilter { types, ..none.clone() }).await.len(), 4);
    let id = Some(prompt.id.to_string());
    assert_eq!(found(EventFilter { id, ..none.clone() }).await, ["prompt.queued"]);
    let kind = EventFilter { subject: Some(SubjectKind::Workspace), ..none };
    assert_eq!(found(kind).await.len(), 2);
}

async fn the_log_is_kept_by_age_and_by_number_and_its_numbers_go_on(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    for _ in 0..3 {
        create_vm(&db.store, worker).await;
    }
    let by_number = LogBounds { age: Duration::from_secs(1000), events: 2 };
    assert_eq!(db.store.prune_events(at(5), by_number).await.unwrap(), 4);
    let page = db.store.history(&EventFilter::default(), 0, 9).await.unwrap();
    assert_eq!((page.items.len(), page.oldest, page.reached), (2, 5, 6));
    let by_age = LogBounds { age: Duration::from_millis(10), events: 100 };
    assert_eq!(db.store.prune_events(at(10), by_age).await.unwrap(), 0);
    assert_eq!(db.store.prune_events(at(11), by_age).await.unwrap(), 2);
    create_vm(&db.store, worker).await;
    let page = db.store.history(&EventFilter::default(), 0, 9).await.unwrap();
    assert_eq!(page.items.iter().map(|it| it.seq).collect::<BTreeSet<_>>(), [7, 8].into());
    assert_eq!(page.oldest, 7);
}

async fn an_execution_without_a_task_is_told_too(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let vm_id = create_vm(&db.store, worker).await;
    let vm = db.store.vm(vm_id).await.unwrap();
    let (mut execution, _) = execution(&vm);
    execution.state = aetherium_model::run::RunState::Running;
    db.store.create_execution(&execution, None, None).await.unwrap();
    let run = RunRef::Execution(execution.id);
    let _ = db.store.finish_run(run, completed(), at(3)).await.unwrap();
    let id = Some(execution.id.to_string());
    let told = db.store.history(&EventFilter { id, ..EventFilter::default() }, 0, 9).await.unwrap();
    assert_eq!(kinds(&told.items), ["execution.running", "execution.completed"]);
    assert_eq!(told.items[0].data.vm_id, Some(vm_id));
    let delete = task(worker, TaskKind::VmDelete { vm_id });
    db.store.request_vm_delete(vm_id, &delete).await.unwrap();
    let told = all(&db.store).await;
    assert_eq!(told.last().unwrap().data.task_type.as_deref(), Some("vm:delete"));
}

on_both_engines! {
    each_change_is_told_with_its_cause_and_actor
    a_vm_tells_each_state_once_and_why_it_ended
    what_was_not_done_is_not_told
    a_retried_task_and_a_lost_prompt_are_told
    a_change_that_commits_late_is_behind_what_was_read
    readers_among_writers_see_every_event_once_and_in_order
    a_filter_names_all_that_an_event_must_meet
    the_log_is_kept_by_age_and_by_number_and_its_numbers_go_on
    an_execution_without_a_task_is_told_too
}
