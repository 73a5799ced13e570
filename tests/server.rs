//! The server itself: starting, stopping, and keeping its word about its data directory.

use crate::world::{Place, SOON, Server, http, id};
use aetherium_model::resources::DriverKind;
use reqwest::Method;
use serde_json::json;
use std::{os::unix::fs::PermissionsExt as _, process::Stdio};

#[tokio::test]
async fn ctrl_c_lets_commands_end_and_leaves_nothing_behind() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let workspace = server.workspace("drained").await;
    let effects = place.path().join("effects");
    let line = format!("touch {0}.begun; sleep 1; echo done > {0}", effects.display());
    server.prompt(&workspace, &line).await;
    let deadline = std::time::Instant::now() + SOON;
    while !effects.with_extension("begun").exists() {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    server.stop().await;
    assert_eq!(std::fs::read_to_string(effects).unwrap(), "done\n", "the command got no grace");
    place.assert_no_vm_is_left();
    assert!(!place.path().join("server.json").exists());
}

#[tokio::test]
async fn ctrl_c_lets_an_interactive_command_end_too() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let vm = server.vm(json!({})).await;
    let begun = place.path().join("begun");
    let script = format!("touch {}; sleep 1; echo done", begun.display());
    let attached = place
        .aetherium()
        .args(["exec", id(&vm), "--", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + SOON;
    while !begun.exists() {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    server.stop().await;
    let output = attached.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
    assert!(output.status.success());
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn the_key_is_secret_and_everything_but_health_wants_it() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let mode = std::fs::metadata(place.path().join("api-key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let http = http();
    let status = async |path: &str, key: Option<&str>| {
        let mut request = http.get(format!("{}{path}", server.url()));
        if let Some(key) = key {
            request = request.header("X-API-Key", key);
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(status("/health", None).await, 200);
    assert_eq!(status("/ready", None).await, 200);
    assert_eq!(status("/api/v1/vms", None).await, 401);
    assert_eq!(status("/api/v1/vms", Some("aeth_wrong")).await, 401);
    assert_eq!(status("/api/v1/vms", Some(server.key())).await, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_is_refused_and_told_where_the_first_is() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let second = place.aetherium().args(["up", "--listen", "127.0.0.1:0"]).output().unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains(server.url()) && said.contains("--data-dir"), "{said}");
    server.stop().await;
}

#[tokio::test]
async fn what_was_made_is_there_after_a_restart() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let workspace = server.workspace("lasting").await;
    let prompt = server.prompt(&workspace, "echo said").await;
    server.ended(&prompt).await;
    server.stop().await;
    let server = Server::start(&place, DriverKind::Process).await;
    assert_eq!(server.ended(&prompt).await.1, "said\n");
    assert_eq!(server.answer(&workspace, "echo more").await, "more\n");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_request_that_is_repeated_with_its_key_makes_one_thing() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let http = http();
    let mut made = Vec::new();
    for _ in 0..2 {
        let request = http
            .post(format!("{}/api/v1/workspaces", server.url()))
            .bearer_auth(server.key())
            .header("Idempotency-Key", "once")
            .json(&json!({ "name": "single", "ai_assistant": "shell" }));
        let value: serde_json::Value = request.send().await.unwrap().json().await.unwrap();
        made.push(id(&value).to_owned());
    }
    assert_eq!(made[0], made[1]);
    let other = json!({ "name": "single", "ai_assistant": "shell" });
    let (status, problem) = server.call(Method::POST, "/workspaces", Some(other)).await;
    assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("conflict")), "{problem:#}");
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_field_is_named() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    for (path, body, field) in [
        ("/workspaces", json!({ "name": "x", "ai_asistant": "shell" }), "ai_asistant"),
        ("/workspaces", json!({ "name": "../etc" }), "name"),
        ("/workspaces", json!({ "name": "x", "ai_assistant": "hal" }), "ai_assistant"),
        ("/vms", json!({ "vcpus": 1000 }), "vcpus"),
        ("/vms", json!({ "memory_mib": "much" }), "memory_mib"),
    ] {
        let (status, problem) = server.call(Method::POST, path, Some(body)).await;
        assert_eq!(status.as_u16(), 422, "{problem:#}");
        let named = problem["errors"].as_array().unwrap().iter().any(|it| it["field"] == field);
        assert!(named, "{field} is not named in {problem:#}");
    }
    server.stop().await;
}

#[test]
fn migrations_run_by_themselves_and_by_hand() {
    let place = Place::new();
    for _ in 0..2 {
        let ran = place.aetherium().arg("migrate").stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.status.success() && said.contains("schema is at version"), "{said}");
    }
}
