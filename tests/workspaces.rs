//! What a user owns outlives its VMs.

use crate::world::{BOOT, Place, Server, state};
use aetherium_model::resources::DriverKind;
use serde_json::json;

#[tokio::test]
async fn an_idle_workspace_gives_its_vm_back_and_keeps_its_files() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Qemu).await;
    let body = json!({ "name": "sleepy", "ai_assistant": "shell", "idle_timeout_s": 2 });
    let made = server.post("/workspaces", body).await;
    let workspace = format!("/workspaces/{}", made["id"].as_str().unwrap());
    server.answer(&workspace, "echo kept > /root/file; sleep 3").await;
    let vm = format!("/vms/{}", server.get(&workspace).await["vm_id"].as_str().unwrap());
    let ended = server.until(&vm, BOOT, |vm| state(vm) == "stopped").await;
    assert_eq!(ended["termination"]["code"], "idle", "{ended:#}");
    assert_eq!(server.answer(&workspace, "cat /root/file").await, "kept\n");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_workspace_that_is_deleted_takes_its_vm_its_disk_and_its_waiting_prompts_with_it() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let (going, staying) = (server.workspace("going").await, server.workspace("staying").await);
    server.answer(&staying, "true").await;
    let running = server.prompt(&going, "echo begun; sleep 600").await;
    server.prompt(&going, "echo never").await;
    let output = format!("{running}/output?stream=stdout");
    server.until(&output, BOOT, |it| it.as_str().is_some_and(|it| it.contains("begun"))).await;
    let task = server.delete(&going).await;
    let path = format!("/tasks/{}", task["id"].as_str().unwrap());
    server.until(&path, BOOT, |task| state(task) == "succeeded").await;
    assert_eq!(server.call(reqwest::Method::GET, &going, None).await.0, 404);
    assert_eq!(server.answer(&staying, "echo here").await, "here\n");
    assert_eq!(place.processes().len(), 1, "only the other workspace's VM is left");
    server.stop().await;
    place.assert_no_vm_is_left();
}
