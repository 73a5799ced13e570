//! One request, sent twice.

use crate::support::*;
use aetherium_model::WorkerId;
use aetherium_store::{Created, Idempotency, REMEMBERED, StoreError};
use std::time::Duration;

fn key(key: &str, request: &str) -> Idempotency {
    Idempotency { key: key.into(), request_sha256: request.into() }
}

async fn the_same_request_under_the_same_key_returns_what_the_first_made(engine: Engine) {
    let db = Db::fresh(engine).await;
    let workspace = ready_workspace(&db.store, WorkerId::new(), "w").await;
    let (first, task) = prompt(&workspace, "a");
    let key_a = key("k", "a");
    let created = db.store.create_prompt(&first, &task, Some(&key_a)).await.unwrap();
    assert_eq!(created, Created::New(first.clone()));
    let (second, task) = prompt(&workspace, "a");
    let created = db.store.create_prompt(&second, &task, Some(&key_a)).await.unwrap();
    assert_eq!(created, Created::Existing(first.clone()));
    let all = db.store.prompts(workspace.id, &Default::default()).await.unwrap().items;
    assert_eq!(all, [first]);
    let other = db.store.create_prompt(&second, &task, Some(&key("k", "b"))).await;
    assert!(matches!(other, Err(StoreError::IdempotencyMismatch { .. })));
}

async fn a_request_that_is_refused_leaves_its_key_free(engine: Engine) {
    let db = Db::fresh(engine).await;
    let worker = WorkerId::new();
    ready_workspace(&db.store, worker, "taken").await;
    let (refused, task) = workspace(worker, "taken");
    let result = db.store.create_workspace(&refused, &task, Some(&key("k", "a"))).await;
    assert!(matches!(result, Err(StoreError::Conflict { .. })));
    let (other, task) = workspace(worker, "free");
    let created = db.store.create_workspace(&other, &task, Some(&key("k", "b"))).await.unwrap();
    assert!(created.is_new());
}

async fn a_key_is_forgotten_after_its_time(engine: Engine) {
    let db = Db::fresh(engine).await;
    let workspace = ready_workspace(&db.store, WorkerId::new(), "w").await;
    let (first, task) = prompt(&workspace, "a");
    db.store.create_prompt(&first, &task, Some(&key("k", "a"))).await.unwrap();
    let later = at(0).after(REMEMBERED).after(Duration::from_millis(1));
    let (mut second, task) = prompt(&workspace, "b");
    second.created_at = later;
    assert!(db.store.create_prompt(&second, &task, Some(&key("k", "b"))).await.unwrap().is_new());
    assert_eq!(db.store.prune(later.after(REMEMBERED), Duration::MAX).await.unwrap().keys, 0);
    let much_later = later.after(REMEMBERED).after(Duration::from_millis(1));
    assert_eq!(db.store.prune(much_later, Duration::MAX).await.unwrap().keys, 1);
}

async fn a_key_that_is_empty_or_too_long_is_refused(engine: Engine) {
    let db = Db::fresh(engine).await;
    let workspace = ready_workspace(&db.store, WorkerId::new(), "w").await;
    let (prompt, task) = prompt(&workspace, "a");
    for bad in [String::new(), "x".repeat(256)] {
        let refused = db.store.create_prompt(&prompt, &task, Some(&key(&bad, "a"))).await;
        assert!(matches!(refused, Err(StoreError::InvalidIdempotencyKey { .. })));
    }
}

async fn of_many_equal_requests_at_once_one_makes_it(engine: Engine) {
    let db = Db::fresh(engine).await;
    let workspace = ready_workspace(&db.store, WorkerId::new(), "w").await;
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let store = db.store.clone();
        let (prompt, task) = prompt(&workspace, "a");
        requests.spawn(async move {
            store.create_prompt(&prompt, &task, Some(&key("k", "a"))).await.unwrap()
        });
    }
    let created = requests.join_all().await;
    assert_eq!(created.iter().filter(|it| it.is_new()).count(), 1);
    let first = created[0].clone().into_inner().id;
    assert!(created.into_iter().all(|it| it.into_inner().id == first));
}

on_both_engines! {
    the_same_request_under_the_same_key_returns_what_the_first_made
    a_request_that_is_refused_leaves_its_key_free
    a_key_is_forgotten_after_its_time
    a_key_that_is_empty_or_too_long_is_refused
    of_many_equal_requests_at_once_one_makes_it
}
