//! What goes with what, and what must never.

use crate::support::*;
use aetherium_model::{
    Code, Fault, WorkerId,
    output::EventBody,
    page::PageRequest,
    recipe::Recipe,
    run::RunState,
    task::{TaskKind, TaskState},
    vm::{VmEvent, VmState},
    workspace::WorkspaceState,
};
use aetherium_store::{RunRef, StoreError, TaskEnd, VmFilter};
use std::time::Duration;

fn ended(code: Code) -> VmState {
    VmState::Failed { termination: Fault::new(code, "x") }
}

async fn forgetting_a_vm_keeps_its_workspace_and_prompts(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    let mut vm = vm(worker, Some(workspace.id));
    db.store.insert_workspace_vm(&vm).await.unwrap();
    assert_eq!(db.store.workspace(workspace.id).await.unwrap().vm_id(), Some(vm.id));
    let prompt = add_prompt(&db.store, &workspace).await;
    let claimed = claim(&db.store, worker).await.unwrap();
    let run = RunRef::Prompt(prompt.id);
    let _ = db.store.start_run(run, Some(&claimed), vm.id, at(1)).await.unwrap();
    let _ = db.store.finish_run(run, completed(), at(2)).await.unwrap();
    let (execution, task) = execution(&vm);
    db.store.create_execution(&execution, Some(&task), None).await.unwrap();

    vm.state = ended(Code::VmmKilled);
    vm.updated_at = at(1000);
    db.store.update_vm(&vm).await.unwrap();
    assert_eq!(db.store.prune(at(1500), Duration::from_millis(600)).await.unwrap().vms, 0);
    let pruned = db.store.prune(at(1601), Duration::from_millis(600)).await.unwrap();
    assert_eq!(pruned.vms, 1);

    assert!(matches!(db.store.vm(vm.id).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(db.store.execution(execution.id).await, Err(StoreError::NotFound { .. })));
    let kept = db.store.prompt(prompt.id).await.unwrap();
    assert_eq!((kept.state, kept.vm_id), (completed(), Some(vm.id)));
    assert_eq!(db.store.events(run, 0, 9).await.unwrap().len(), 1);
    assert!(db.store.task(prompt.task_id).await.is_ok());
    assert_eq!(db.store.workspace(workspace.id).await.unwrap().state, WorkspaceState::Ready);
}

async fn a_builds_log_is_followed_ends_with_its_task_and_is_forgotten_with_it(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let recipe: Recipe = serde_json::from_str(r#"{"base":{"template":"default"}}"#).unwrap();
    let build = |name: &str| TaskKind::TemplateBuild {
        template: name.parse().unwrap(),
        recipe: Box::new(Recipe::clone(&recipe)),
        replace: false,
    };
    let ends = [
        (TaskState::Succeeded, None, "completed"),
        (TaskState::Failed, Some(Fault::new(Code::StepFailed, "x")), "failed"),
        (TaskState::Cancelled, None, "cancelled"),
    ];
    for (state, fault, ended) in ends {
        let made = task(worker, build("app"));
        let log = RunRef::log_of(&made).unwrap();
        db.store.create_task(&made, None).await.unwrap();
        let claimed = claim(&db.store, worker).await.unwrap();
        let body = EventBody::Status { stage: "stage".into(), message: String::new() };
        assert_eq!(db.store.append_events(log, vec![(at(1), body.clone())]).await.unwrap(), 1);
        let end = db.store.finish_task(&claimed, state, fault.as_ref(), at(2)).await.unwrap();
        assert_eq!(end, TaskEnd::Written);
        assert_eq!(db.store.run_state(log).await.unwrap().as_str(), ended);
        let told = db.store.events(log, 0, 9).await.unwrap();
        assert!(
            matches!(&told[..], [first, last] if first.body == body
            && matches!(&last.body, EventBody::End { state } if state.as_str() == ended)),
            "{told:?}"
        );
        let late = db.store.append_events(log, vec![(at(3), body)]).await;
        assert!(matches!(late, Err(StoreError::RunEnded { .. })));
        db.store.prune(at(2), Duration::ZERO).await.unwrap();
        assert_eq!(db.store.events(log, 0, 9).await.unwrap().len(), 2, "not old enough");
        assert_eq!(db.store.prune(at(9), Duration::ZERO).await.unwrap().tasks, 1);
        assert!(matches!(db.store.run_state(log).await, Err(StoreError::NotFound { .. })));
        assert_eq!(db.store.events(log, 0, 9).await.unwrap(), []);
    }
}

async fn a_workspace_that_is_deleted_ends_its_prompts_and_takes_no_more(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    let running = add_prompt(&db.store, &workspace).await;
    let waiting = add_prompt(&db.store, &workspace).await;
    let claimed = claim(&db.store, worker).await.unwrap();
    let run = start(&db.store, &claimed).await;
    let kind = TaskKind::WorkspaceDelete { workspace_id: workspace.id };
    let (first, second) = (task(worker, kind.clone()), task(worker, kind));
    let delete = db.store.begin_delete_workspace(workspace.id, &first).await.unwrap();
    let again = db.store.begin_delete_workspace(workspace.id, &second).await.unwrap();
    assert_eq!((delete.id, again.id), (first.id, first.id));

    assert_eq!(db.store.prompt(waiting.id).await.unwrap().state, RunState::Cancelled);
    assert_eq!(db.store.prompt(running.id).await.unwrap().state, RunState::Running);
    assert_eq!(db.store.cancel_requested(worker).await.unwrap(), [claimed.id]);
    let (late, late_task) = prompt(&workspace, "late");
    let refused = db.store.create_prompt(&late, &late_task, None).await.unwrap_err();
    assert!(refused.to_string().contains("being deleted"), "{refused}");
    let refused = db.store.insert_workspace_vm(&vm(worker, Some(workspace.id))).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })));
    let ready = db.store.set_workspace_state(workspace.id, &WorkspaceState::Ready, at(3)).await;
    assert!(matches!(ready, Err(StoreError::Conflict { .. })));

    assert_eq!(claim(&db.store, worker).await, None, "the deletion comes after what runs");
    let _ = db.store.finish_run(run, RunState::Cancelled, at(3)).await.unwrap();
    let claimed = claim(&db.store, worker).await.unwrap();
    assert_eq!(claimed.id, delete.id);
    db.store.remove_workspace(workspace.id, at(9)).await.unwrap();
    let end = db.store.finish_task(&claimed, TaskState::Succeeded, None, at(4)).await.unwrap();
    assert_eq!(end, TaskEnd::Written);
    for gone in [running.id, waiting.id] {
        assert!(matches!(db.store.prompt(gone).await, Err(StoreError::NotFound { .. })));
        assert_eq!(db.store.events(RunRef::Prompt(gone), 0, 9).await.unwrap(), []);
    }
    ready_workspace(&db.store, worker, "w").await;
}

async fn a_workspace_that_nobody_asked_to_delete_is_not_removed(engine: Engine) {
    let db = Db::fresh(engine).await;
    let workspace = ready_workspace(&db.store, WorkerId::new(), "w").await;
    let refused = db.store.remove_workspace(workspace.id, at(9)).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })));
    assert_eq!(db.store.workspace(workspace.id).await.unwrap(), workspace);
}

async fn a_workspace_that_could_not_be_made_takes_no_prompts_and_says_why(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    let failed = WorkspaceState::Failed { fault: Fault::new(Code::DiskFull, "no room at all") };
    db.store.set_workspace_state(workspace.id, &failed, at(1)).await.unwrap();
    let (prompt, task) = prompt(&workspace, "x");
    let refused = db.store.create_prompt(&prompt, &task, None).await.unwrap_err();
    assert!(refused.to_string().contains("no room at all"), "{refused}");
}

async fn a_name_belongs_to_one_workspace(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let first = ready_workspace(&db.store, worker, "mine").await;
    let (second, task) = workspace(worker, "mine");
    let refused = db.store.create_workspace(&second, &task, None).await.unwrap_err();
    assert!(refused.to_string().contains("\"mine\""), "{refused}");
    assert_eq!(db.store.workspace_by_name(&first.name).await.unwrap(), first);
    assert!(matches!(db.store.task(task.id).await, Err(StoreError::NotFound { .. })));
}

async fn a_vm_is_deleted_by_one_task_however_often_it_is_asked_for(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let mut vm = vm(worker, None);
    let create = task(worker, TaskKind::VmCreate { vm_id: vm.id });
    db.store.create_vm(&vm, &create, None).await.unwrap();
    let kind = TaskKind::VmDelete { vm_id: vm.id };
    let first = db.store.request_vm_delete(vm.id, &task(worker, kind.clone())).await.unwrap();
    let again = db.store.request_vm_delete(vm.id, &task(worker, kind.clone())).await.unwrap();
    assert_eq!(first.id, again.id);
    for expected in [create.id, first.id] {
        let claimed = claim(&db.store, worker).await.unwrap();
        assert_eq!(claimed.id, expected);
        assert_eq!(claim(&db.store, worker).await, None, "one at a time");
        let _ = db.store.finish_task(&claimed, TaskState::Succeeded, None, at(1)).await.unwrap();
    }
    vm.state = ended(Code::Requested);
    db.store.update_vm(&vm).await.unwrap();
    let done = db.store.request_vm_delete(vm.id, &task(worker, kind)).await.unwrap();
    assert_eq!((done.id, done.state), (first.id, TaskState::Succeeded));
}

async fn a_vm_that_has_ended_changes_no_more_and_takes_no_executions(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let mut vm = vm(worker, None);
    let create = task(worker, TaskKind::VmCreate { vm_id: vm.id });
    db.store.create_vm(&vm, &create, None).await.unwrap();
    vm.state = VmState::Booting;
    vm.accelerator = Some("tcg".into());
    vm.driver = Some(aetherium_model::resources::DriverKind::Qemu);
    vm.agent_transport = Some(aetherium_model::vm::AgentTransport::Tcp);
    vm.spec.tuning.balloon_mib = Some(8);
    vm.timings = Some(aetherium_model::vm::StartTimings { prepare_ms: 1, boot_ms: 2, agent_ms: 3 });
    db.store.update_vm(&vm).await.unwrap();
    assert_eq!(db.store.vm(vm.id).await.unwrap(), vm);
    assert_eq!(db.store.live_vms(worker).await.unwrap(), [vm.clone()]);
    let mut foreign = vm.clone();
    foreign.worker_id = WorkerId::new();
    assert!(matches!(db.store.update_vm(&foreign).await, Err(StoreError::Conflict { .. })));

    let fault = Fault::new(Code::KernelPanic, "x");
    let running = vm.clone();
    vm.state = vm.state.step(VmEvent::Ended(fault)).unwrap();
    db.store.update_vm(&vm).await.unwrap();
    assert!(matches!(db.store.update_vm(&running).await, Err(StoreError::Conflict { .. })));
    assert_eq!(db.store.vm(vm.id).await.unwrap(), vm);
    let (execution, task) = execution(&vm);
    let refused = db.store.create_execution(&execution, Some(&task), None).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })));
    assert_eq!(db.store.live_vms(worker).await.unwrap(), []);
    let live = VmFilter { live_only: true, ..VmFilter::default() };
    assert_eq!(db.store.vms(live, &PageRequest::default()).await.unwrap().items, []);
    let all = db.store.vms(VmFilter::default(), &PageRequest::default()).await.unwrap().items;
    assert_eq!(all, [vm]);
}

on_both_engines! {
    a_builds_log_is_followed_ends_with_its_task_and_is_forgotten_with_it
    forgetting_a_vm_keeps_its_workspace_and_prompts
    a_workspace_that_is_deleted_ends_its_prompts_and_takes_no_more
    a_workspace_that_nobody_asked_to_delete_is_not_removed
    a_workspace_that_could_not_be_made_takes_no_prompts_and_says_why
    a_name_belongs_to_one_workspace
    a_vm_is_deleted_by_one_task_however_often_it_is_asked_for
    a_vm_that_has_ended_changes_no_more_and_takes_no_executions
}
