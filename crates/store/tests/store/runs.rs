//! Start marks, logs and ends.

use crate::support::*;
use aetherium_model::{
    Fault, VmId, WorkerId,
    limits::MAX_OUTPUT_BYTES,
    output::{EventBody, Stream},
    run::RunState,
    task::TaskState,
};
use aetherium_store::{Finish, RunRef, Start, StoreError};

fn output(text: impl Into<String>) -> (aetherium_model::Timestamp, EventBody) {
    (at(2), EventBody::Output { stream: Stream::Stdout, text: text.into() })
}

async fn a_prompt_runs_from_queued_to_its_result_with_its_whole_log(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    let (prompt, task) = prompt(&workspace, "nul \0 and \u{10ffff}");
    db.store.create_prompt(&prompt, &task, None).await.unwrap();
    assert_eq!(db.store.prompt(prompt.id).await.unwrap(), prompt);

    let claimed = claim(&db.store, worker).await.unwrap();
    let run = RunRef::Prompt(prompt.id);
    let booting = EventBody::Status { stage: "vm_booting".into(), message: String::new() };
    assert_eq!(db.store.append_events(run, vec![(at(1), booting.clone())]).await.unwrap(), 1);
    let vm_id = VmId::new();
    assert_eq!(db.store.start_run(run, Some(&claimed), vm_id, at(2)).await.unwrap(), Start::Marked);
    assert_eq!(db.store.unfinished_runs(vm_id).await.unwrap(), [run]);
    let last = db.store.append_events(run, vec![output("a\0"), output("b")]).await.unwrap();
    assert_eq!(last, 3);
    assert_eq!(db.store.append_events(run, vec![]).await.unwrap(), 3);
    assert_eq!(db.store.finish_run(run, completed(), at(4)).await.unwrap(), Finish::Written);

    let done = db.store.prompt(prompt.id).await.unwrap();
    assert_eq!((done.state, done.vm_id), (completed(), Some(vm_id)));
    assert_eq!((done.started_at, done.finished_at), (Some(at(2)), Some(at(4))));
    let task = db.store.task(task.id).await.unwrap();
    assert_eq!((task.state, task.started_at), (TaskState::Succeeded, Some(at(2))));
    assert_eq!(task.finished_at, Some(at(4)));
    let log = db.store.events(run, 0, 100).await.unwrap();
    let bodies = [booting, output("a\0").1, output("b").1, EventBody::End { state: completed() }];
    assert_eq!(log.iter().map(|event| event.body.clone()).collect::<Vec<_>>(), bodies);
    assert!(log.iter().map(|event| event.seq).eq(1..=4));
    let tail = db.store.events(run, 1, 2).await.unwrap();
    assert_eq!(tail, log[1..3]);
    assert_eq!(db.store.unfinished_runs(vm_id).await.unwrap(), []);
}

async fn a_run_ends_once_and_takes_nothing_after_its_end(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    add_prompt(&db.store, &workspace).await;
    let claimed = claim(&db.store, worker).await.unwrap();
    let run = start(&db.store, &claimed).await;
    assert_eq!(db.store.finish_run(run, completed(), at(4)).await.unwrap(), Finish::Written);
    let failed = RunState::Failed { fault: Fault::internal("late") };
    let again = db.store.finish_run(run, failed, at(5)).await.unwrap();
    assert_eq!(again, Finish::AlreadyEnded(completed()));
    let error = db.store.append_events(run, vec![output("late")]).await.unwrap_err();
    assert!(matches!(error, StoreError::RunEnded { .. }), "{error:?}");
    let end = db.store.crash_task(&claimed, &Fault::internal("late"), at(6)).await.unwrap();
    assert_eq!(end, aetherium_store::TaskEnd::NotOurs);
    assert_eq!(db.store.events(run, 0, 100).await.unwrap().len(), 1);
    assert_eq!(db.store.task(claimed.id).await.unwrap().state, TaskState::Succeeded);
}

async fn a_result_without_a_start_mark_is_refused(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    let prompt = add_prompt(&db.store, &workspace).await;
    claim(&db.store, worker).await.unwrap();
    let run = RunRef::Prompt(prompt.id);
    for state in [completed(), RunState::Running, RunState::Queued] {
        let error = db.store.finish_run(run, state, at(4)).await.unwrap_err();
        assert!(matches!(error, StoreError::Conflict { .. }), "{error:?}");
    }
    let failed = RunState::Failed { fault: Fault::internal("no VM") };
    assert_eq!(db.store.finish_run(run, failed, at(4)).await.unwrap(), Finish::Written);
    assert_eq!(db.store.events(run, 0, 9).await.unwrap().len(), 1);
}

async fn a_waiting_prompt_is_cancelled_at_once_and_a_claimed_one_by_its_handler(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    let first = add_prompt(&db.store, &workspace).await;
    let second = add_prompt(&db.store, &workspace).await;
    let claimed = claim(&db.store, worker).await.unwrap();

    let waiting = db.store.cancel_prompt(second.id, at(3)).await.unwrap();
    assert_eq!((waiting.state, waiting.finished_at), (RunState::Cancelled, Some(at(3))));
    assert_eq!(db.store.task(second.task_id).await.unwrap().state, TaskState::Cancelled);
    let log = db.store.events(RunRef::Prompt(second.id), 0, 9).await.unwrap();
    assert_eq!(log[0].body, EventBody::End { state: RunState::Cancelled });

    assert_eq!(db.store.cancel_requested(worker).await.unwrap(), []);
    let held = db.store.cancel_prompt(first.id, at(3)).await.unwrap();
    assert_eq!(held.state, RunState::Queued);
    assert_eq!(db.store.cancel_requested(worker).await.unwrap(), [claimed.id]);
    let run = RunRef::Prompt(first.id);
    let start = db.store.start_run(run, Some(&claimed), VmId::new(), at(4)).await.unwrap();
    assert_eq!(start, Start::Cancelled);
    let finish = db.store.finish_run(run, RunState::Cancelled, at(4)).await.unwrap();
    assert_eq!(finish, Finish::Written);
    assert_eq!(db.store.cancel_requested(worker).await.unwrap(), []);
    let still = db.store.cancel_prompt(first.id, at(9)).await.unwrap();
    assert_eq!(still.finished_at, Some(at(4)));
}

async fn a_vm_that_waits_to_be_made_is_left_to_its_handler_when_cancelled(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let vm = vm(worker, None);
    let create = task(worker, aetherium_model::task::TaskKind::VmCreate { vm_id: vm.id });
    db.store.create_vm(&vm, &create, None).await.unwrap();
    let asked = db.store.request_cancel_task(create.id, at(1)).await.unwrap();
    assert_eq!((asked.state, asked.cancel_requested), (TaskState::Queued, true));
    assert!(claim(&db.store, worker).await.unwrap().cancel_requested);
}

async fn output_beyond_the_bound_is_dropped_and_the_log_says_so_once(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let vm = vm(worker, None);
    let create = task(worker, aetherium_model::task::TaskKind::VmCreate { vm_id: vm.id });
    db.store.create_vm(&vm, &create, None).await.unwrap();
    let (execution, _) = execution(&vm);
    db.store.create_execution(&execution, None, None).await.unwrap();
    let run = RunRef::Execution(execution.id);
    assert_eq!(db.store.start_run(run, None, vm.id, at(1)).await.unwrap(), Start::Marked);
    let most = usize::try_from(MAX_OUTPUT_BYTES).unwrap();
    db.store.append_events(run, vec![output("x".repeat(most - 1))]).await.unwrap();
    db.store.append_events(run, vec![output("yy"), output("z")]).await.unwrap();
    let store = db.reopened().await;
    assert_eq!(store.append_events(run, vec![output("z")]).await.unwrap(), 2);
    assert_eq!(store.finish_run(run, completed(), at(3)).await.unwrap(), Finish::Written);
    let log = store.events(run, 1, 9).await.unwrap();
    assert_eq!(log[0].body, EventBody::Truncated { kept_bytes: MAX_OUTPUT_BYTES - 1 });
    assert_eq!(log[1].body, EventBody::End { state: completed() });
    assert_eq!(log.len(), 2);
}

async fn what_ran_without_a_task_is_interrupted_when_its_worker_begins_again(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let vm = vm(worker, None);
    let create = task(worker, aetherium_model::task::TaskKind::VmCreate { vm_id: vm.id });
    db.store.create_vm(&vm, &create, None).await.unwrap();
    let (interactive, _) = execution(&vm);
    db.store.create_execution(&interactive, None, None).await.unwrap();
    let (queued, queued_task) = execution(&vm);
    db.store.create_execution(&queued, Some(&queued_task), None).await.unwrap();
    let run = RunRef::Execution(interactive.id);
    assert_eq!(db.store.start_run(run, None, vm.id, at(1)).await.unwrap(), Start::Marked);

    let store = db.reopened().await;
    assert_eq!(store.interrupt_interactive_runs(WorkerId::new(), at(2)).await.unwrap(), []);
    assert_eq!(store.interrupt_interactive_runs(worker, at(2)).await.unwrap(), [run]);
    assert_eq!(store.interrupt_interactive_runs(worker, at(2)).await.unwrap(), []);
    assert_eq!(store.run_state(run).await.unwrap().as_str(), "interrupted");
    assert_eq!(store.execution(queued.id).await.unwrap(), queued);
}

on_both_engines! {
    a_prompt_runs_from_queued_to_its_result_with_its_whole_log
    a_run_ends_once_and_takes_nothing_after_its_end
    a_result_without_a_start_mark_is_refused
    a_waiting_prompt_is_cancelled_at_once_and_a_claimed_one_by_its_handler
    a_vm_that_waits_to_be_made_is_left_to_its_handler_when_cancelled
    output_beyond_the_bound_is_dropped_and_the_log_says_so_once
    what_ran_without_a_task_is_interrupted_when_its_worker_begins_again
}
