//! How long VMs live when nobody ends them: until they are idle, or their time is over; also across
//! a killed server.

use crate::world::{BOOT, Place, SOON, Server, id, state, text};
use aetherium_model::resources::DriverKind;
use serde_json::json;
use std::fs;

#[tokio::test]
async fn idle_and_expired_vms_end_after_a_crash_too_and_one_at_work_does_not() {
    let place = Place::new();
    let go = place.path().join("go");
    let server = Server::start(&place, DriverKind::Process).await;
    let workspace = async |name: &str, idle_timeout_s: u32| {
        let body = json!({ "name": name, "idle_timeout_s": idle_timeout_s });
        format!("/workspaces/{}", id(&server.post("/workspaces", body).await))
    };
    let (idle, busy) = (workspace("idle", 3).await, workspace("busy", 1).await);
    let script = format!("echo begun; until [ -e {} ]; do sleep 0.1; done", go.display());
    let prompt = server.prompt(&busy, &script).await;
    let output = format!("{prompt}/output?stream=stdout");
    server.until(&output, BOOT, |it| text(it).contains("begun")).await;
    let mortal = server.vm(json!({ "ttl_s": 600 })).await;
    let mortal = format!("/vms/{}", id(&mortal));
    let spared = server.vm(json!({ "ttl_s": 600 })).await;
    let spared = format!("/vms/{}", id(&spared));
    server.answer(&idle, "true").await;
    let idle_vm = format!("/vms/{}", server.get(&idle).await["vm_id"].as_str().unwrap());
    server.post(&format!("{mortal}/ttl"), json!({ "ttl_s": 1 })).await;
    server.post(&format!("{spared}/ttl"), json!({})).await;
    server.kill();

    let server = Server::start(&place, DriverKind::Process).await;
    for (vm, reason) in [(&idle_vm, "idle"), (&mortal, "expired")] {
        let ended = server.until(vm, SOON, |vm| vm["termination"].is_object()).await;
        assert_eq!(ended["termination"]["code"], reason, "{ended:#}");
        server.until(vm, SOON, |vm| state(vm) == "stopped").await;
    }
    assert_eq!(state(&server.get(&spared).await), "running");
    // Its workspace's idle timeout has long passed, but something runs in it.
    assert_eq!(state(&server.get(&prompt).await), "running", "{}", server.log());
    fs::write(&go, "").unwrap();
    let (end, _) = server.ended(&prompt).await;
    assert_eq!(state(&end), "completed", "{end:#}");

    let listed = place
        .aetherium()
        .args(["events", "--id", mortal.trim_start_matches("/vms/"), "--type", "vm.stopped"])
        .args(["--type", "vm.ttl_set"])
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines[0].contains("vm.ttl_set") && lines[0].contains("by key "), "{listed}");
    assert!(lines[1].contains("vm.stopped") && lines[1].contains("expired: "), "{listed}");
    server.stop().await;
    place.assert_no_vm_is_left();
}
