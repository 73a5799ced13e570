//! Preparing a workspace again: what is asked for, and what becomes of it.

use crate::support::*;
use aetherium_model::{
    Code, Digest, Fault, TaskId, WorkerId, WorkspaceId,
    setup::{Preparation, Setup, StepReport, StepState},
    task::{Task, TaskKind, TaskState},
    workspace::WorkspaceState,
};
use aetherium_store::{Redo, RunRef, StoreError, TaskEnd};

fn prepare(worker: WorkerId, workspace_id: WorkspaceId) -> Task {
    task(worker, TaskKind::WorkspacePrepare { workspace_id })
}

fn some() -> Preparation {
    let step = StepReport {
        name: "a".to_owned(),
        action: "script".to_owned(),
        inputs: Digest::of(b"a"),
        state: StepState::Done,
        started_at: Some(at(1)),
        finished_at: Some(at(2)),
    };
    Preparation { task_id: Some(TaskId::new()), steps: vec![step], template: None }
}

async fn a_workspace_that_failed_takes_prompts_again_once_it_is_to_be_prepared(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    let state = WorkspaceState::Failed { fault: Fault::new(Code::StepFailed, "step 1") };
    db.store.set_workspace_state(workspace.id, &state, at(1)).await.unwrap();
    let (asked, its_task) = prompt(&workspace, "true");
    let refused = db.store.create_prompt(&asked, &its_task, None).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");

    let wanted = prepare(worker, workspace.id);
    let begin = |task: Task| {
        let store = db.store.clone();
        async move { store.begin_prepare_workspace(workspace.id, None, Redo::Changed, &task).await }
    };
    assert_eq!(begin(wanted.clone()).await.unwrap().id, wanted.id);
    let now = db.store.workspace(workspace.id).await.unwrap();
    assert_eq!(now.state, WorkspaceState::Preparing);
    db.store.create_prompt(&asked, &its_task, None).await.unwrap();
    let again = begin(prepare(worker, workspace.id)).await.unwrap();
    assert_eq!(again.id, wanted.id, "it is on its way already");

    // It comes before the prompt, and its log ends with it.
    let claimed = claim(&db.store, worker).await.unwrap();
    assert_eq!(claimed.id, wanted.id);
    let log = RunRef::log_of(&claimed).unwrap();
    let end = db.store.finish_task(&claimed, TaskState::Succeeded, None, at(3)).await.unwrap();
    assert_eq!(end, TaskEnd::Written);
    assert_eq!(db.store.events(log, 0, 9).await.unwrap().len(), 1);
}

async fn every_step_is_forgotten_where_all_shall_be_done_and_kept_where_not(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    db.store.set_preparation(workspace.id, &some(), at(1)).await.unwrap();
    let setup: Setup = serde_json::from_str(r#"{"env":{"A":"1"}}"#).unwrap();
    let first = prepare(worker, workspace.id);
    let begin = |setup: Option<Setup>, redo, task: Task| {
        let store = db.store.clone();
        async move { store.begin_prepare_workspace(workspace.id, setup.as_ref(), redo, &task).await }
    };
    begin(Some(setup.clone()), Redo::Changed, first.clone()).await.unwrap();
    let now = db.store.workspace(workspace.id).await.unwrap();
    assert_eq!((now.setup.clone(), now.preparation.steps.len()), (setup.clone(), 1));
    assert_eq!(now.state, WorkspaceState::Ready, "prompts before it are run");

    // What else than that is asked for has to wait.
    for (setup, redo) in [(Some(Setup::default()), Redo::Changed), (Some(setup), Redo::All)] {
        let refused = begin(setup, redo, prepare(worker, workspace.id)).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    }
    let claimed = claim(&db.store, worker).await.unwrap();
    let end = db.store.finish_task(&claimed, TaskState::Succeeded, None, at(3)).await.unwrap();
    assert_eq!(end, TaskEnd::Written);
    begin(None, Redo::All, prepare(worker, workspace.id)).await.unwrap();
    let now = db.store.workspace(workspace.id).await.unwrap();
    assert_eq!(now.preparation.steps, []);
}

async fn a_workspace_that_is_deleted_does_not_wait_for_its_preparation(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    let wanted = prepare(worker, workspace.id);
    let begin = db.store.begin_prepare_workspace(workspace.id, None, Redo::Changed, &wanted);
    begin.await.unwrap();
    let delete = task(worker, TaskKind::WorkspaceDelete { workspace_id: workspace.id });
    db.store.begin_delete_workspace(workspace.id, &delete).await.unwrap();
    assert!(db.store.task(wanted.id).await.unwrap().cancel_requested);
    let late = prepare(worker, workspace.id);
    let begin = db.store.begin_prepare_workspace(workspace.id, None, Redo::Changed, &late);
    let refused = begin.await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
}

on_both_engines! {
    a_workspace_that_failed_takes_prompts_again_once_it_is_to_be_prepared
    every_step_is_forgotten_where_all_shall_be_done_and_kept_where_not
    a_workspace_that_is_deleted_does_not_wait_for_its_preparation
}
