//! Who gets which task, and what becomes of a lost claim.

use crate::support::*;
use aetherium_model::{
    Code, Fault, Timestamp, VmId, WorkerId,
    run::RunState,
    task::{MAX_ATTEMPTS, Recovery, TaskKind, TaskState},
};
use aetherium_store::{Finish, RunRef, Start, Store, StoreError, TaskEnd};
use std::collections::HashSet;

async fn enqueue_vm_create(store: &Store, worker: WorkerId) -> TaskKind {
    let vm = vm(worker, None);
    let kind = TaskKind::VmCreate { vm_id: vm.id };
    store.create_vm(&vm, &task(worker, kind.clone()), None).await.unwrap();
    kind
}

async fn concurrent_claims_never_hand_one_task_out_twice(engine: Engine) {
    const TASKS: usize = 120;
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    for _ in 0..TASKS {
        enqueue_vm_create(&db.store, worker).await;
    }
    let mut claimers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = db.reopened().await;
        claimers.spawn(async move {
            let mut mine = Vec::new();
            // A claim that lost too many races says there is nothing; the list knows better.
            loop {
                match claim(&store, worker).await {
                    Some(task) => mine.push(task.id),
                    None if waiting(&store).await == 0 => return mine,
                    None => {}
                }
            }
        });
    }
    let claimed: Vec<_> = claimers.join_all().await.concat();
    assert_eq!(claimed.len(), TASKS);
    assert_eq!(claimed.iter().collect::<HashSet<_>>().len(), TASKS);
}

async fn waiting(store: &Store) -> usize {
    let filter = aetherium_store::TaskFilter {
        state: Some(TaskState::Queued),
        ..aetherium_store::TaskFilter::default()
    };
    store.tasks(&filter, &aetherium_model::page::PageRequest::default()).await.unwrap().items.len()
}

async fn two_prompts_of_a_workspace_are_never_in_hands_at_once_and_run_in_order(engine: Engine) {
    const PROMPTS: usize = 25;
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    let mut wanted = Vec::new();
    for _ in 0..PROMPTS {
        wanted.push(add_prompt(&db.store, &workspace).await.task_id);
    }
    let (in_hands, order) =
        (std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0)), Default::default());
    let order: std::sync::Arc<tokio::sync::Mutex<Vec<_>>> = std::sync::Arc::new(order);
    let mut claimers = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (store, in_hands, order) = (db.reopened().await, in_hands.clone(), order.clone());
        claimers.spawn(async move {
            use std::sync::atomic::Ordering::SeqCst;
            while order.lock().await.len() < PROMPTS {
                let Some(claim) = claim(&store, worker).await else { continue };
                assert_eq!(in_hands.fetch_add(1, SeqCst), 0, "two claims of one workspace");
                order.lock().await.push(claim.id);
                let run = start(&store, &claim).await;
                in_hands.fetch_sub(1, SeqCst);
                let _ = store.finish_run(run, completed(), at(2)).await.unwrap();
            }
        });
    }
    claimers.join_all().await;
    assert_eq!(*order.lock().await, wanted);
}

async fn the_database_itself_refuses_two_claims_of_one_serial_key(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    add_prompt(&db.store, &workspace).await;
    add_prompt(&db.store, &workspace).await;
    claim(&db.store, worker).await.unwrap();
    let error =
        db.raw("UPDATE tasks SET state = 'claimed' WHERE state = 'queued'").await.unwrap_err();
    assert!(error.as_database_error().unwrap().is_unique_violation(), "{error}");
}

async fn a_lost_claim_changes_nothing_any_more(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    let prompt = add_prompt(&db.store, &workspace).await;
    let run = RunRef::Prompt(prompt.id);
    let old = claim(&db.store, worker).await.unwrap();
    assert_eq!(db.store.recover_worker(worker, at(5)).await.unwrap().len(), 1);
    let new = claim(&db.store, worker).await.unwrap();
    assert_eq!((old.id, old.attempts + 1), (new.id, new.attempts));

    let vm_id = VmId::new();
    assert_eq!(db.store.start_run(run, Some(&old), vm_id, at(6)).await.unwrap(), Start::NotOurs);
    assert_eq!(db.store.renew(std::slice::from_ref(&old), far()).await.unwrap(), []);
    let end = db.store.finish_task(&old, TaskState::Succeeded, None, at(6)).await.unwrap();
    assert_eq!(end, TaskEnd::NotOurs);
    assert_eq!(db.store.requeue(&old, at(6), None, at(6)).await.unwrap(), None);
    let crash = Fault::internal("x");
    assert_eq!(db.store.crash_task(&old, &crash, at(6)).await.unwrap(), TaskEnd::NotOurs);

    assert_eq!(db.store.renew(std::slice::from_ref(&new), far()).await.unwrap(), [new.id]);
    assert_eq!(db.store.start_run(run, Some(&new), vm_id, at(7)).await.unwrap(), Start::Marked);
    assert_eq!(db.store.start_run(run, Some(&new), vm_id, at(7)).await.unwrap(), Start::NotOurs);
}

async fn an_expired_lease_is_recovered_and_a_renewed_one_is_not(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    enqueue_vm_create(&db.store, worker).await;
    enqueue_vm_create(&db.store, worker).await;
    let one = claim_at(&db.store, worker, at(0), at(100)).await.unwrap();
    let two = claim_at(&db.store, worker, at(0), at(100)).await.unwrap();
    assert_eq!(db.store.recover_expired(at(100)).await.unwrap(), []);
    db.store.renew(&[two], at(200)).await.unwrap();
    let recovered = db.store.recover_expired(at(150)).await.unwrap();
    assert_eq!(recovered.len(), 1);
    assert_eq!((recovered[0].task.id, &recovered[0].verdict), (one.id, &Recovery::Requeue));
    assert_eq!(db.store.task(one.id).await.unwrap().state, TaskState::Queued);
}

async fn a_started_prompt_goes_back_to_its_worker_as_started_when_that_begins_again(
    engine: Engine,
) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    let prompt = add_prompt(&db.store, &workspace).await;
    let later = add_prompt(&db.store, &workspace).await;
    let old = claim(&db.store, worker).await.unwrap();
    let run = start(&db.store, &old).await;
    let store = db.reopened().await;
    let recovered = store.recover_worker(worker, at(9)).await.unwrap();
    assert_eq!(recovered[0].verdict, Recovery::Resume);
    assert_eq!(store.run_state(run).await.unwrap(), RunState::Running);

    // To be cancelled it must be found first: only its worker can.
    store.cancel_prompt(prompt.id, at(10)).await.unwrap();
    let new = claim(&store, worker).await.unwrap();
    assert_eq!((new.id, new.state, new.cancel_requested), (old.id, TaskState::Started, true));
    assert!(new.started_at.is_some());
    // The mark is there: nothing may be started for it once more.
    let again = store.start_run(run, Some(&new), VmId::new(), at(11)).await.unwrap();
    assert_eq!(again, Start::NotOurs);
    assert_eq!(store.finish_run(run, completed(), at(12)).await.unwrap(), Finish::Written);
    assert_eq!(store.task(new.id).await.unwrap().state, TaskState::Succeeded);
    assert_eq!(claim(&store, worker).await.unwrap().id, later.task_id);
}

async fn a_started_prompt_whose_worker_is_lost_ends_as_interrupted_and_says_so(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    let prompt = add_prompt(&db.store, &workspace).await;
    let claimed = claim(&db.store, worker).await.unwrap();
    let run = start(&db.store, &claimed).await;
    let after_lease = Timestamp::from_millis(i64::MAX);
    let recovered = db.reopened().await.recover_expired(after_lease).await.unwrap();
    assert!(matches!(recovered[0].verdict, Recovery::Interrupt(_)));

    let RunState::Interrupted { fault } = db.store.prompt(prompt.id).await.unwrap().state else {
        panic!("it is not interrupted")
    };
    assert_eq!(fault.code, Code::Interrupted);
    let task = db.store.task(claimed.id).await.unwrap();
    assert_eq!((task.state, task.fault), (TaskState::Interrupted, Some(fault)));
    let events = db.store.events(run, 0, 100).await.unwrap();
    assert!(matches!(
        &events.last().unwrap().body,
        aetherium_model::output::EventBody::End { state: RunState::Interrupted { .. } }
    ));
    assert_eq!(claim(&db.store, worker).await, None);
}

async fn a_task_that_is_put_off_too_often_fails_with_the_last_reason(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    enqueue_vm_create(&db.store, worker).await;
    let why = Fault::new(Code::NoCapacity, "no room");
    for attempt in 1..=MAX_ATTEMPTS {
        let now = at(i64::from(attempt) * 10);
        assert_eq!(claim_at(&db.store, worker, at(0), far()).await.is_some(), attempt == 1);
        let claimed = match attempt {
            1 => db
                .store
                .tasks(&Default::default(), &Default::default())
                .await
                .unwrap()
                .items
                .remove(0),
            _ => {
                assert_eq!(db.store.next_due(worker, at(0)).await.unwrap(), Some(now));
                claim_at(&db.store, worker, now, far()).await.unwrap()
            }
        };
        assert_eq!(claimed.attempts, attempt);
        let next = at(i64::from(attempt + 1) * 10);
        let verdict = db.store.requeue(&claimed, next, Some(&why), now).await.unwrap().unwrap();
        assert_eq!(verdict == Recovery::Requeue, attempt < MAX_ATTEMPTS, "{verdict:?}");
    }
    let failed = db.store.tasks(&Default::default(), &Default::default()).await.unwrap().items;
    let fault = failed[0].fault.clone().unwrap();
    assert_eq!((failed[0].state, fault.code), (TaskState::Failed, Code::RetriesExhausted));
    assert!(fault.evidence[0].contains("no room"), "{fault:?}");
}

async fn a_handler_that_breaks_down_interrupts_what_had_started_and_fails_what_had_not(
    engine: Engine,
) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    let fault = Fault::internal("it broke");
    for (starts, expected) in [(true, TaskState::Interrupted), (false, TaskState::Failed)] {
        let prompt = add_prompt(&db.store, &workspace).await;
        let claimed = claim(&db.store, worker).await.unwrap();
        if starts {
            start(&db.store, &claimed).await;
        }
        assert_eq!(db.store.crash_task(&claimed, &fault, at(3)).await.unwrap(), TaskEnd::Written);
        assert_eq!(db.store.task(claimed.id).await.unwrap().state, expected);
        assert_eq!(db.store.prompt(prompt.id).await.unwrap().state.as_str(), expected.as_str());
    }
}

async fn more_tasks_than_may_wait_are_refused_and_leave_nothing_behind(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    let small = db.store.clone().with_max_queued(2);
    add_prompt(&small, &workspace).await;
    add_prompt(&small, &workspace).await;
    let (prompt, task) = prompt(&workspace, "one too many");
    let error = small.create_prompt(&prompt, &task, None).await.unwrap_err();
    assert!(matches!(error, StoreError::Busy { waiting: 2 }), "{error:?}");
    assert!(matches!(small.prompt(prompt.id).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(small.task(task.id).await, Err(StoreError::NotFound { .. })));
    claim(&small, worker).await.unwrap();
    assert!(small.create_prompt(&prompt, &task, None).await.unwrap().is_new());
}

on_both_engines! {
    concurrent_claims_never_hand_one_task_out_twice
    two_prompts_of_a_workspace_are_never_in_hands_at_once_and_run_in_order
    the_database_itself_refuses_two_claims_of_one_serial_key
    a_lost_claim_changes_nothing_any_more
    an_expired_lease_is_recovered_and_a_renewed_one_is_not
    a_started_prompt_goes_back_to_its_worker_as_started_when_that_begins_again
    a_started_prompt_whose_worker_is_lost_ends_as_interrupted_and_says_so
    a_task_that_is_put_off_too_often_fails_with_the_last_reason
    a_handler_that_breaks_down_interrupts_what_had_started_and_fails_what_had_not
    more_tasks_than_may_wait_are_refused_and_leave_nothing_behind
}
