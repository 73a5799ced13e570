//! What only PostgreSQL can do to us.

use crate::support::*;
use aetherium_model::{Code, WorkerId, task::TaskKind};
use aetherium_store::{DatabaseUrl, Store};
use sqlx::{AnyConnection, Connection as _, Row as _};
use std::time::{Duration, Instant};
use test_servers::Postgres;

fn address(db: &Db) -> &str {
    let DatabaseUrl::Postgres(url) = &db.url else { panic!("it is not PostgreSQL's") };
    url
}

async fn count(connection: &mut AnyConnection, question: &'static str) -> i64 {
    sqlx::query(question).fetch_one(connection).await.unwrap().get(0)
}

/// Another client takes the second row, then wants the first, while the store has the first and
/// wants the second. PostgreSQL ends the store's transaction, as the other looks for deadlocks later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_gives_way_in_a_deadlock_is_made_after_all() {
    const WAITING: &str = "SELECT COUNT(*) FROM pg_stat_activity \
         WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let db = Db::fresh(Engine::Postgres).await;
    let worker = WorkerId::new();
    let mut claims = Vec::new();
    for _ in 0..2 {
        let vm = vm(worker, None);
        let create = task(worker, TaskKind::VmCreate { vm_id: vm.id });
        db.store.create_vm(&vm, &create, None).await.unwrap();
        claims.push(claim(&db.store, worker).await.unwrap());
    }
    let hold = "UPDATE tasks SET id = id WHERE id = $1";
    let mut other = AnyConnection::connect(address(&db)).await.unwrap();
    let mut watch = AnyConnection::connect(address(&db)).await.unwrap();
    sqlx::raw_sql("SET deadlock_timeout = '1min'; BEGIN").execute(&mut other).await.unwrap();
    sqlx::query(hold).bind(claims[1].id.to_string()).execute(&mut other).await.unwrap();
    let renewing = tokio::spawn({
        let (store, claims) = (db.store.clone(), claims.clone());
        async move { store.renew(&claims, far()).await }
    });
    let begun = Instant::now();
    while count(&mut watch, WAITING).await == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "nobody waits for the row");
    }
    // Only after the store's transaction, which has this row, was ended.
    sqlx::query(hold).bind(claims[0].id.to_string()).execute(&mut other).await.unwrap();
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    let renewed = renewing.await.unwrap().unwrap();
    assert_eq!(renewed, claims.iter().map(|claim| claim.id).collect::<Vec<_>>());
}

#[tokio::test]
async fn connections_that_were_cut_are_replaced() {
    let db = Db::fresh(Engine::Postgres).await;
    let workspace = ready_workspace(&db.store, WorkerId::new(), "w").await;
    Postgres::of_this_process().cut_connections(address(&db));
    let prompt = add_prompt(&db.store, &workspace).await;
    assert_eq!(db.store.prompt(prompt.id).await.unwrap(), prompt);
    db.store.ping().await.unwrap();
}

#[tokio::test]
async fn a_server_that_shows_the_named_certificate_is_spoken_to_in_secret() {
    let server = Postgres::of_this_process();
    let database = server.database();
    let url = format!(
        "{}?sslmode=verify-full&sslrootcert={}",
        server.by_loopback(&database),
        server.certificate().display()
    );
    let store = Store::open(&url.parse().unwrap()).await.unwrap();
    store.ping().await.unwrap();
    let mut watch = AnyConnection::connect(&database).await.unwrap();
    let in_clear = "SELECT COUNT(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
         WHERE datname = current_database() AND application_name = 'aetherium' AND NOT ssl";
    let ours = "SELECT COUNT(*) FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name = 'aetherium'";
    assert!(count(&mut watch, ours).await > 0);
    assert_eq!(count(&mut watch, in_clear).await, 0);
}

#[tokio::test]
async fn a_server_whose_certificate_nobody_vouches_for_is_not_spoken_to() {
    let server = Postgres::of_this_process();
    let url = format!("{}?sslmode=verify-full", server.by_loopback(&server.database()));
    let error = Store::open(&url.parse().unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let url = "postgres://nobody@127.0.0.1:1/nothing".parse().unwrap();
    let error = Store::open(&url).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
}
