//! Opening, upgrading, and refusing to.

use crate::support::*;
use aetherium_model::{Code, WorkerId};
use aetherium_store::{DatabaseUrl, Store, StoreError};

async fn migrating_again_changes_nothing(engine: Engine) {
    let db = Db::fresh(engine).await;
    let workspace = ready_workspace(&db.store, WorkerId::new(), "w").await;
    let version = db.store.schema_version().await.unwrap();
    assert_eq!(db.store.migrate().await.unwrap(), version);
    let store = db.reopened().await;
    assert_eq!(store.schema_version().await.unwrap(), version);
    assert_eq!(store.workspace(workspace.id).await.unwrap(), workspace);
    store.ping().await.unwrap();
}

async fn many_processes_may_migrate_at_once(engine: Engine) {
    let db = Db::fresh(engine).await;
    db.store.close().await;
    db.raw(
        "DROP TABLE logins; DROP TABLE environment_versions; DROP TABLE environments; DROP TABLE secrets; DROP TABLE events; DROP TABLE runs; DROP TABLE schema_versions; DROP TABLE counters;
            DROP TABLE workers; DROP TABLE workspaces; DROP TABLE vms; DROP TABLE tasks;
            DROP TABLE idempotency; DROP TABLE event_log; DROP TABLE webhook_deliveries;
            DROP TABLE webhooks; DROP TABLE projects; DROP TABLE worker_epochs;",
    )
    .await
    .unwrap();
    let mut opens = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let url = db.url.clone();
        opens.spawn(async move { Store::open(&url).await.map(drop) });
    }
    for opened in opens.join_all().await {
        opened.unwrap();
    }
}

async fn a_database_of_a_newer_binary_is_refused_and_left_alone(engine: Engine) {
    let db = Db::fresh(engine).await;
    db.raw("INSERT INTO schema_versions (version, applied_at) VALUES (99, 0)").await.unwrap();
    let error = Store::open(&db.url).await.unwrap_err();
    assert!(matches!(error, StoreError::SchemaTooNew { found: 99, .. }), "{error:?}");
    assert!(error.to_string().contains("newer binary"), "{error}");
    let look = Store::connect(&db.url).await.unwrap();
    assert_eq!(look.schema_version().await.unwrap(), 99);
}

#[tokio::test]
async fn a_database_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    let store = Store::open(&DatabaseUrl::Sqlite(path.clone())).await.unwrap();
    ready_workspace(&store, WorkerId::new(), "w").await;
    let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap).collect();
    assert!(files.iter().any(|file| file.path() == path));
    for file in files {
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", file.file_name());
    }
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_named() {
    let url = "sqlite:///nowhere/at/all.db".parse().unwrap();
    let error = Store::open(&url).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all.db"), "{error}");
    assert_eq!(error.code(), Code::Unavailable);
}

on_both_engines! {
    migrating_again_changes_nothing
    many_processes_may_migrate_at_once
    a_database_of_a_newer_binary_is_refused_and_left_alone
}
