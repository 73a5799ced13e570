//! What is noted of the memory that a workspace's VM has left.

use crate::support::*;
use aetherium_model::{
    Code, Fault, WorkerId,
    vm::VmState,
    workspace::{Hibernation, Lifecycle},
};

async fn a_workspace_is_hibernated_once_its_vm_is_gone_and_until_its_memory_is(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    let lifecycle = async || db.store.workspace(workspace.id).await.unwrap().lifecycle;
    assert_eq!(lifecycle().await, Lifecycle::Stopped);
    let mut vm = vm(worker, Some(workspace.id));
    db.store.insert_workspace_vm(&vm).await.unwrap();
    let hibernation = Hibernation { at: at(7), bytes: 5 << 30 };
    db.store.set_hibernation(workspace.id, Some(&hibernation), at(8)).await.unwrap();
    assert_eq!(lifecycle().await, Lifecycle::Active { vm_id: vm.id });
    vm.state = VmState::Stopped { termination: Fault::new(Code::Hibernated, "x") };
    db.store.update_vm(&vm).await.unwrap();
    assert_eq!(lifecycle().await, Lifecycle::Hibernated { hibernation });
    let noted = db.store.hibernations(worker).await.unwrap();
    assert_eq!(noted, [(workspace.id, hibernation)]);
    assert_eq!(db.store.hibernations(WorkerId::new()).await.unwrap(), []);
    db.store.set_hibernation(workspace.id, None, at(9)).await.unwrap();
    assert_eq!(lifecycle().await, Lifecycle::Stopped);
}

on_both_engines! {
    a_workspace_is_hibernated_once_its_vm_is_gone_and_until_its_memory_is
}
