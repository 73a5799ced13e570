//! Environments: versions that nobody overwrites unseen, and workspaces that keep what they were made from.

use crate::support::*;
use aetherium_model::{
    EnvironmentId, WorkerId,
    environment::{Environment, EnvironmentSpec, KEPT_VERSIONS},
    event::{EventFilter, EventType, SubjectKind},
    page::PageRequest,
    setup::Setup,
};
use aetherium_store::{Created, Idempotency, Store, StoreError};

fn says(description: &str) -> EnvironmentSpec {
    let tools = vec!["git".parse().unwrap()].try_into().unwrap();
    let setup = Setup { tools, ..Setup::default() };
    EnvironmentSpec { description: description.into(), setup, ..EnvironmentSpec::default() }
}

fn environment(name: &str) -> Environment {
    Environment {
        id: EnvironmentId::new(),
        name: name.parse().unwrap(),
        version: 1,
        spec: says("first"),
        created_at: at(1),
        updated_at: at(1),
    }
}

async fn made(store: &Store, name: &str) -> Environment {
    store.create_environment(&environment(name), None).await.unwrap().into_inner()
}

fn page(limit: u32, after: Option<String>) -> PageRequest {
    PageRequest { limit, after }
}

async fn an_environment_is_found_by_id_and_name_in_each_of_its_versions(engine: Engine) {
    let db = Db::fresh(engine).await;
    let first = made(&db.store, "web").await;
    let second = db.store.change_environment(first.id, 1, &says("second"), at(2)).await.unwrap();
    assert_eq!((second.version, second.created_at, second.updated_at), (2, at(1), at(2)));
    assert_eq!(db.store.environment(first.id).await.unwrap(), second);
    assert_eq!(db.store.environment_by_name(&first.name).await.unwrap(), second);
    assert_eq!(db.store.environment_version(first.id, 1).await.unwrap(), first);
    assert_eq!(db.store.environment_version(first.id, 2).await.unwrap(), second);
    let missing = db.store.environment_version(first.id, 3).await.unwrap_err().to_string();
    assert!(missing.contains("no version 3 of environment"), "{missing}");
}

async fn lists_are_paged_the_newest_first(engine: Engine) {
    let db = Db::fresh(engine).await;
    let (a, b) = (made(&db.store, "a").await, made(&db.store, "b").await);
    let (older, newer) = if a.id < b.id { (a, b) } else { (b, a) };
    let one = db.store.environments(&page(1, None)).await.unwrap();
    assert_eq!(one.items, [newer]);
    let two = db.store.environments(&page(1, one.next_cursor)).await.unwrap();
    assert_eq!((two.items.as_slice(), two.next_cursor), ([older.clone()].as_slice(), None));

    let second = db.store.change_environment(older.id, 1, &says("2"), at(2)).await.unwrap();
    let third = db.store.change_environment(older.id, 2, &says("3"), at(3)).await.unwrap();
    let newest = db.store.environment_versions(older.id, &page(2, None)).await.unwrap();
    assert_eq!(newest.items, [third, second]);
    let oldest = db.store.environment_versions(older.id, &page(2, newest.next_cursor)).await;
    assert_eq!(oldest.unwrap().items, std::slice::from_ref(&older));
    let odd = db.store.environment_versions(older.id, &page(2, Some("x".into()))).await;
    assert!(matches!(odd, Err(StoreError::InvalidCursor { .. })));
}

async fn of_writers_that_saw_the_same_version_one_wins(engine: Engine) {
    let db = Db::fresh(engine).await;
    let first = made(&db.store, "web").await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..6 {
        let (store, id) = (db.reopened().await, first.id);
        let spec = says(&format!("writer {writer}"));
        writers.spawn(async move { store.change_environment(id, 1, &spec, at(2)).await });
    }
    let results = writers.join_all().await;
    let won: Vec<_> = results.iter().filter_map(|it| it.as_ref().ok()).collect();
    let lost = |it: &&Result<_, _>| matches!(it, Err(StoreError::Conflict { .. }));
    assert_eq!((won.len(), results.iter().filter(lost).count()), (1, 5), "{results:?}");
    assert_eq!(db.store.environment(first.id).await.unwrap(), *won[0]);
    let kept = db.store.environment_versions(first.id, &page(9, None)).await.unwrap();
    assert_eq!(kept.items.len(), 2);
}

async fn a_change_that_is_asked_for_twice_makes_one_version(engine: Engine) {
    let db = Db::fresh(engine).await;
    let first = made(&db.store, "web").await;
    let once = db.store.change_environment(first.id, 1, &says("second"), at(2)).await.unwrap();
    let twice = db.store.change_environment(first.id, 1, &says("second"), at(3)).await.unwrap();
    assert_eq!(once, twice);
    assert_eq!(db.store.environment(first.id).await.unwrap().version, 2);
}

async fn a_create_that_is_repeated_under_its_key_gives_what_it_made(engine: Engine) {
    let db = Db::fresh(engine).await;
    let key = Idempotency { key: "k".into(), request_sha256: "a".into() };
    let first = environment("web");
    let created = db.store.create_environment(&first, Some(&key)).await.unwrap();
    assert_eq!(created, Created::New(first.clone()));
    db.store.change_environment(first.id, 1, &says("second"), at(2)).await.unwrap();
    let again = db.store.create_environment(&environment("web"), Some(&key)).await.unwrap();
    assert_eq!(again, Created::Existing(first));
    let taken = db.store.create_environment(&environment("web"), None).await;
    assert!(matches!(taken, Err(StoreError::Conflict { .. })), "{taken:?}");
}

async fn a_workspace_keeps_what_it_was_made_from_when_that_is_gone(engine: Engine) {
    let db = Db::fresh(engine).await;
    let environment = made(&db.store, "web").await;
    let (mut workspace, task) = workspace(WorkerId::new(), "w");
    workspace.environment = Some(environment.reference());
    workspace.setup = environment.spec.setup.clone();
    let workspace = db.store.create_workspace(&workspace, &task, None).await.unwrap().into_inner();
    db.store.delete_environment(environment.id, at(5)).await.unwrap();

    assert_eq!(db.store.workspace(workspace.id).await.unwrap(), workspace);
    let gone = db.store.environment(environment.id).await;
    assert!(matches!(gone, Err(StoreError::NotFound { .. })), "{gone:?}");
    let versions = db.store.environment_versions(environment.id, &page(9, None)).await.unwrap();
    assert_eq!(versions.items, []);
    let again = db.store.delete_environment(environment.id, at(6)).await;
    assert!(matches!(again, Err(StoreError::NotFound { .. })), "{again:?}");
    made(&db.store, "web").await;
}

async fn the_oldest_versions_go_but_for_the_first_and_those_that_workspaces_were_made_from(
    engine: Engine,
) {
    let db = Db::fresh(engine).await;
    let key = Idempotency { key: "k".into(), request_sha256: "a".into() };
    let first = environment("web");
    let _ = db.store.create_environment(&first, Some(&key)).await.unwrap();
    for version in 1..5 {
        let spec = says(&format!("after {version}"));
        db.store.change_environment(first.id, version, &spec, at(2)).await.unwrap();
    }
    let (mut workspace, task) = workspace(WorkerId::new(), "w");
    let used = db.store.environment_version(first.id, 3).await.unwrap();
    workspace.environment = Some(used.reference());
    let _ = db.store.create_workspace(&workspace, &task, None).await.unwrap();

    let kept = async || {
        let all = db.store.environment_versions(first.id, &page(99, None)).await.unwrap();
        all.items.iter().map(|it| it.version).collect::<Vec<_>>()
    };
    let at_version = async |version: u32| {
        // As after as many changes.
        let set =
            format!("UPDATE environments SET version = {} WHERE id = '{}'", version - 1, first.id);
        db.raw(&set).await.unwrap();
        let spec = says(&format!("version {version}"));
        db.store.change_environment(first.id, version - 1, &spec, at(3)).await.unwrap();
    };
    let newest = KEPT_VERSIONS + 4;
    at_version(newest).await;
    assert_eq!(kept().await, [newest, 5, 3, 1]);
    at_version(newest + 1).await;
    assert_eq!(kept().await, [newest + 1, newest, 3, 1]);

    let again = db.store.create_environment(&first, Some(&key)).await.unwrap();
    assert_eq!(again, Created::Existing(first));
}

async fn what_happens_to_an_environment_is_told(engine: Engine) {
    let db = Db::fresh(engine).await;
    let first = made(&db.store, "web").await;
    let second = db.store.change_environment(first.id, 1, &says("second"), at(2)).await.unwrap();
    db.store.delete_environment(first.id, at(3)).await.unwrap();
    let filter = EventFilter { subject: Some(SubjectKind::Environment), ..EventFilter::default() };
    let told = db.store.history(&filter, 0, 10).await.unwrap().items;
    let told: Vec<_> = told.into_iter().map(|it| (it.kind, it.data.environment)).collect();
    let (one, two) = (Some(first.reference()), Some(second.reference()));
    assert_eq!(
        told,
        [
            (EventType::EnvironmentCreated, one),
            (EventType::EnvironmentChanged, two.clone()),
            (EventType::EnvironmentDeleted, two),
        ]
    );
}

on_both_engines! {
    an_environment_is_found_by_id_and_name_in_each_of_its_versions
    lists_are_paged_the_newest_first
    of_writers_that_saw_the_same_version_one_wins
    a_change_that_is_asked_for_twice_makes_one_version
    a_create_that_is_repeated_under_its_key_gives_what_it_made
    a_workspace_keeps_what_it_was_made_from_when_that_is_gone
    the_oldest_versions_go_but_for_the_first_and_those_that_workspaces_were_made_from
    what_happens_to_an_environment_is_told
}
