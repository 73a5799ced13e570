//! The same program on PostgreSQL: what it promises on a file of SQLite it keeps there too.

use crate::{
    crash::nothing_is_lost_or_run_twice_by_kills,
    world::{Place, SOON, Server, id, state},
};
use aetherium_model::resources::DriverKind;
use std::{process::Stdio, time::Duration};
use test_servers::Postgres;

#[tokio::test]
async fn a_workspace_and_its_prompts_live_in_postgres() {
    let database = Postgres::of_this_process().database();
    let place = Place::new();
    let options = ["--database-url", &database];
    let mut migrate = place.aetherium();
    let ran = migrate.arg("migrate").args(options).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success() && said.contains("schema is at version"), "{ran:?}");

    let server = Server::start_with(&place, DriverKind::Process, &options).await;
    let workspace = server.workspace("remembered").await;
    assert_eq!(server.answer(&workspace, "echo Hello from VM").await, "Hello from VM\n");
    let prompt = server.prompt(&workspace, "exit 3").await;
    let (end, _) = server.ended(&prompt).await;
    assert_eq!((state(&end), end["result"]["exit_code"].as_i64()), ("completed", Some(3)));
    server.kill();

    let server = Server::start_with(&place, DriverKind::Process, &options).await;
    assert_eq!(server.ended(&prompt).await.0, end);
    assert_eq!(server.answer(&workspace, "echo more").await, "more\n");
    let task = server.delete(&workspace).await;
    server.until(&format!("/tasks/{}", id(&task)), SOON, |it| state(it) == "succeeded").await;
    server.stop().await;
    place.assert_no_vm_is_left();
    assert!(!place.path().join("aetherium.db").exists(), "something was kept in SQLite");
}

#[tokio::test]
async fn no_prompt_in_postgres_is_lost_or_run_twice_however_often_the_server_is_killed() {
    let database = Postgres::of_this_process().database();
    nothing_is_lost_or_run_twice_by_kills(&["--database", &database]).await;
}

#[tokio::test]
async fn a_prompt_goes_on_when_every_connection_to_the_database_is_cut() {
    let database = Postgres::of_this_process().database();
    let place = Place::new();
    let options = ["--database", &database];
    let server = Server::start_with(&place, DriverKind::Process, &options).await;
    let workspace = server.workspace("cut").await;
    let go_on = place.path().join("go-on");
    let line =
        format!("echo begun; until [ -e {} ]; do sleep 0.05; done; echo ended", go_on.display());
    let prompt = server.prompt(&workspace, &line).await;
    let output = format!("{prompt}/output?stream=stdout");
    server.until(&output, SOON, |it| it.as_str().is_some_and(|it| it.contains("begun"))).await;
    for _ in 0..3 {
        Postgres::of_this_process().cut_connections(&database);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    std::fs::write(go_on, "").unwrap();
    let (end, output) = server.ended(&prompt).await;
    assert_eq!((state(&end), output.as_str()), ("completed", "begun\nended\n"), "{end:#}");
    server.stop().await;
    place.assert_no_vm_is_left();
}
