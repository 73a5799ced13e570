//! VMs that live for a given time.

use crate::support::*;
use aetherium_model::{Code, Fault, WorkerId, task::TaskKind, vm::VmState};
use aetherium_store::StoreError;

async fn a_vm_expires_unless_it_is_given_more_time_before(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let mut vm = vm(worker, None);
    vm.expires_at = Some(at(100));
    let create = task(worker, TaskKind::VmCreate { vm_id: vm.id });
    db.store.create_vm(&vm, &create, None).await.unwrap();
    assert_eq!(db.store.vm(vm.id).await.unwrap().expires_at, Some(at(100)));
    assert_eq!(db.store.expired_vms(worker, at(99)).await.unwrap(), []);
    assert_eq!(db.store.expired_vms(WorkerId::new(), at(100)).await.unwrap(), []);
    assert_eq!(db.store.expired_vms(worker, at(100)).await.unwrap(), [(vm.id, at(100))]);

    let extended = db.store.set_vm_expiry(vm.id, Some(at(200)), at(99)).await.unwrap();
    assert_eq!(extended.expires_at, Some(at(200)));
    assert_eq!(db.store.expired_vms(worker, at(150)).await.unwrap(), []);
    // Its owner writes its row from what it knows, which is less.
    vm.state = VmState::Running;
    db.store.update_vm(&vm).await.unwrap();
    assert_eq!(db.store.vm(vm.id).await.unwrap().expires_at, Some(at(200)));

    let late = db.store.set_vm_expiry(vm.id, None, at(200)).await.unwrap_err();
    assert!(matches!(late, StoreError::Conflict { .. }), "{late:?}");
    assert_eq!(db.store.expired_vms(worker, at(200)).await.unwrap().len(), 1);
    vm.state = VmState::Failed { termination: Fault::new(Code::Expired, "x") };
    db.store.update_vm(&vm).await.unwrap();
    assert_eq!(db.store.expired_vms(worker, at(200)).await.unwrap(), []);
}

on_both_engines! {
    a_vm_expires_unless_it_is_given_more_time_before
}
