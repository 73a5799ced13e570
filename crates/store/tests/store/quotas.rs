//! What a project may use, and that nobody gets more however many ask at once.

use crate::support::*;
use aetherium_model::{
    Code, Fault, WorkerId,
    event::By,
    project::{Limits, ProjectId},
    task::TaskKind,
    vm::VmState,
};
use aetherium_store::{Store, StoreError};

async fn create_vm(store: &Store) -> Result<aetherium_model::vm::Vm, StoreError> {
    let worker = WorkerId::new();
    let vm = vm(worker, None);
    let create = task(worker, TaskKind::VmCreate { vm_id: vm.id });
    store.create_vm(&vm, &create, None).await.map(aetherium_store::Created::into_inner)
}

async fn limit(db: &Db, limits: Limits) {
    db.store.set_limits(&ProjectId::default(), limits).await.unwrap();
}

async fn of_many_at_once_no_more_get_a_vm_than_may(engine: Engine) {
    let db = Db::fresh(engine).await;
    limit(&db, Limits { vms: Some(3), ..Limits::default() }).await;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = db.reopened().await;
        callers.spawn(async move { create_vm(&store).await });
    }
    let (made, refused): (Vec<_>, Vec<_>) =
        callers.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (3, 5));
    for error in refused {
        let fault = Fault::from(error.unwrap_err());
        assert_eq!(fault.code, Code::QuotaExceeded);
        assert!(fault.detail.contains("may have 3 vms and has 3"), "{fault}");
    }
    // One that ended makes room.
    let mut vm = made.into_iter().next().unwrap().unwrap();
    vm.state = VmState::Failed { termination: Fault::new(Code::DiskFull, "x") };
    db.store.update_vm(&vm).await.unwrap();
    create_vm(&db.store).await.unwrap();
    create_vm(&db.store).await.unwrap_err();
}

async fn size_counts_and_other_projects_do_not(engine: Engine) {
    let db = Db::fresh(engine).await;
    let size = spec().resources;
    let memory_mib = Some(2 * u64::from(size.memory_mib.get()) + 1);
    limit(&db, Limits { memory_mib, ..Limits::default() }).await;
    let project: ProjectId = "other".parse().unwrap();
    let other = db.store.on_behalf_of(By { project, ..By::default() });
    for _ in 0..3 {
        create_vm(&other).await.unwrap();
    }
    create_vm(&db.store).await.unwrap();
    create_vm(&db.store).await.unwrap();
    let error = create_vm(&db.store).await.unwrap_err();
    assert!(error.to_string().contains("memory_mib"), "{error}");
    let usage = db.store.project(&ProjectId::default()).await.unwrap().usage;
    assert_eq!((usage.vms, usage.vcpus), (2, 2 * u64::from(size.vcpus.get())));
}

async fn workspaces_their_vms_and_their_prompts_are_bounded(engine: Engine) {
    let db = Db::fresh(engine).await;
    let limits =
        Limits { workspaces: Some(1), queued_prompts: Some(2), vms: Some(0), ..Limits::default() };
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "one").await;
    limit(&db, limits).await;
    let (second, create) = crate::support::workspace(worker, "two");
    let refused = db.store.create_workspace(&second, &create, None).await.unwrap_err();
    assert!(matches!(refused, StoreError::Quota(_)), "{refused:?}");
    let refused = db.store.insert_workspace_vm(&vm(worker, Some(workspace.id))).await.unwrap_err();
    assert!(matches!(refused, StoreError::Quota(_)), "{refused:?}");
    assert_eq!(db.store.workspace(workspace.id).await.unwrap().vm_id(), None);

    for _ in 0..2 {
        add_prompt(&db.store, &workspace).await;
    }
    let (third, execute) = prompt(&workspace, "echo");
    let refused = db.store.create_prompt(&third, &execute, None).await.unwrap_err();
    assert!(refused.to_string().contains("queued_prompts"), "{refused}");
    // One that runs waits no longer.
    let claimed = claim(&db.store, worker).await.unwrap();
    start(&db.store, &claimed).await;
    db.store.create_prompt(&third, &execute, None).await.unwrap();
}

on_both_engines! {
    of_many_at_once_no_more_get_a_vm_than_may
    size_counts_and_other_projects_do_not
    workspaces_their_vms_and_their_prompts_are_bounded
}
