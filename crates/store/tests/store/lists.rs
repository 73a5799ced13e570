//! Pages, and what is written reads back.

use crate::support::*;
use aetherium_model::{
    HeldTemplate, WorkerId,
    page::PageRequest,
    resources::DriverKind,
    room::Room,
    task::{TaskKind, TaskState},
    worker::{Admission, Capability, Usage, Worker, WorkerState},
};
use aetherium_store::{Beat, Orders, StoreError, TaskFilter};

pub(crate) fn worker() -> Worker {
    let capacity = Room { vcpus: 2, memory_mib: 4096, disk_mib: 8192, vms: 10 };
    Worker {
        id: WorkerId::new(),
        hostname: "h".into(),
        version: "0.1.0".into(),
        driver: Some(DriverKind::Qemu),
        driver_reason: "r".into(),
        internal_address: "127.0.0.1:1".into(),
        templates: vec!["debian".parse().unwrap()],
        zone: Some("a".parse().unwrap()),
        labels: [("disk".parse().unwrap(), "nvme".parse().unwrap())].into(),
        capabilities: [Capability::Kvm, Capability::Slots].into(),
        capacity,
        allocatable: Room { vcpus: 8, ..capacity },
        reserved: Room::default(),
        usage: Usage::default(),
        admission: Admission::Open,
        state: WorkerState::Active,
        created_at: at(1),
        heartbeat_at: at(1),
    }
}

async fn pages_show_every_entry_once_newest_first(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    let workspace = ready_workspace(&db.store, worker, "w").await;
    let mut wanted = Vec::new();
    for _ in 0..7 {
        wanted.push(add_prompt(&db.store, &workspace).await.id);
    }
    wanted.sort();
    wanted.reverse();
    let (mut seen, mut page) = (Vec::new(), PageRequest { limit: 3, after: None });
    loop {
        let part = db.store.prompts(workspace.id, &page).await.unwrap();
        assert!(part.items.len() <= 3);
        seen.extend(part.items.iter().map(|prompt| prompt.id));
        page.after = part.next_cursor;
        if page.after.is_none() {
            break;
        }
    }
    assert_eq!(seen, wanted);
    let bad = PageRequest { limit: 3, after: Some(worker.to_string()) };
    let refused = db.store.prompts(workspace.id, &bad).await;
    assert!(matches!(refused, Err(StoreError::InvalidCursor { .. })));
}

async fn a_worker_keeps_its_age_across_restarts_and_is_heard_of(engine: Engine) {
    let db = Db::fresh(engine).await;
    let mut worker = worker();
    let first = db.store.register_worker(&worker, None).await.unwrap();
    // When it was heard of is the database's to say.
    let read = async || Worker { heartbeat_at: at(1), ..db.store.worker(worker.id).await.unwrap() };
    assert_eq!(read().await, worker);
    let again = Worker { created_at: at(50), driver: None, ..worker.clone() };
    let second = db.store.register_worker(&again, None).await.unwrap();
    assert_eq!(read().await, Worker { created_at: at(1), ..again.clone() });
    worker = Worker { created_at: at(1), ..again };

    let digest = format!("sha256:{}", "0a".repeat(32));
    let templates: Vec<HeldTemplate> =
        vec!["alpine".parse().unwrap(), format!("alpine:v1@{digest}").parse().unwrap()];
    let usage = Usage { load_percent: 7, memory_mib: 8, disk_mib: 9 };
    let beat = Beat { usage, templates: Some(templates.clone()) };
    assert_eq!(db.store.heartbeat(second, None, &beat).await.unwrap(), Orders::Work);
    let same = Beat { usage, templates: None };
    db.store.heartbeat(second, None, &same).await.unwrap();
    db.store.set_worker_state(second, WorkerState::Draining, at(9)).await.unwrap();
    worker = Worker { templates, usage, state: WorkerState::Draining, ..worker };
    let listed = db.store.workers(&PageRequest::default()).await.unwrap();
    assert_eq!(listed.next_cursor, None);
    assert_eq!(listed.items, db.store.every_worker().await.unwrap());
    let now = std::time::SystemTime::now().into();
    assert!(listed.items[0].heartbeat_at <= now && listed.items[0].heartbeat_at > at(1));
    assert_eq!(Worker { heartbeat_at: at(1), ..listed.items[0].clone() }, worker);
    let earlier_process = db.store.heartbeat(first, None, &same).await;
    assert!(matches!(earlier_process, Err(StoreError::Fenced { .. })));
}

async fn tasks_are_found_by_state_type_and_worker(engine: Engine) {
    let db = Db::fresh(engine).await;
    let (one, two) = (WorkerId::new(), WorkerId::new());
    ready_workspace(&db.store, one, "a").await;
    let vm = vm(two, None);
    let create = task(two, TaskKind::VmCreate { vm_id: vm.id });
    db.store.create_vm(&vm, &create, None).await.unwrap();
    let count = async |filter: TaskFilter| {
        db.store.tasks(&filter, &PageRequest::default()).await.unwrap().items.len()
    };
    let all = TaskFilter::default;
    assert_eq!(count(all()).await, 2);
    assert_eq!(count(TaskFilter { state: Some(TaskState::Queued), ..all() }).await, 1);
    assert_eq!(count(TaskFilter { kind: Some("vm:create".into()), ..all() }).await, 1);
    assert_eq!(count(TaskFilter { kind: Some("vm:delete".into()), ..all() }).await, 0);
    assert_eq!(count(TaskFilter { worker_id: Some(one), ..all() }).await, 1);
    assert_eq!(db.store.task(create.id).await.unwrap(), create);
}

on_both_engines! {
    pages_show_every_entry_once_newest_first
    a_worker_keeps_its_age_across_restarts_and_is_heard_of
    tasks_are_found_by_state_type_and_worker
}
