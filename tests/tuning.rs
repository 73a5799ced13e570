//! What a VM takes of its host beyond its size, and what it uses: changed and counted while it runs.
//! A case of the drivers' suite.

use crate::{
    drivers::{Subject, execute},
    world::{SOON, Server, id, state},
};
use aetherium_model::resources::DriverKind;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A driver that has no means says so, and the VM goes on.
async fn assert_conflict(server: &Server<'_>, vm: &Value, change: Value, names: &str) {
    let path = format!("/vms/{}", id(vm));
    let (status, problem) = server.call(Method::PATCH, &path, Some(change.clone())).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("conflict")), "{change}");
    assert!(problem["detail"].as_str().unwrap().contains(names), "{problem:#}");
}

/// Sets something of a VM by the command line, which prints the VM.
fn set(subject: &Subject, vm: &Value, args: &[&str]) -> Value {
    let mut command = subject.place.aetherium();
    let output = command.args(["vm", "set", id(vm), "--json"]).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

pub(crate) async fn what_a_vm_takes_is_changed_and_counted_while_it_runs(subject: &Subject) {
    let server = subject.server().await;
    let is_firecracker = subject.driver == DriverKind::Firecracker;
    let limits = json!({ "disk_ops_per_s": 5000, "disk_bytes_per_s": 1 << 30 });
    if !is_firecracker {
        // What it cannot hold a guest to, it does not pretend to.
        let made = server.post("/vms", subject.vm_but(json!({ "limits": limits }))).await;
        let path = format!("/vms/{}", id(&made));
        let refused = server.until(&path, SOON, |vm| state(vm) == "failed").await;
        assert_eq!(refused["termination"]["code"], "conflict", "{refused:#}");
    }
    if subject.driver == DriverKind::Process {
        a_process_is_counted_and_not_changed(&server).await;
        server.stop().await;
        return;
    }
    let asked = if is_firecracker {
        json!({ "balloon_mib": 16, "limits": limits })
    } else {
        json!({ "balloon_mib": 16 })
    };
    let vm = server.vm(subject.vm_but(asked)).await;
    let path = format!("/vms/{}", id(&vm));
    let metrics = format!("{path}/metrics");
    let holds = |mib: u64| move |it: &Value| it["balloon"]["actual_mib"] == mib;
    let before = server.until(&metrics, SOON, holds(16)).await;
    let too_large = Some(json!({ "balloon_mib": 100_000 }));
    let (status, problem) = server.call(Method::PATCH, &path, too_large).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem:#}");
    assert_eq!(problem["errors"][0]["field"], "balloon_mib", "{problem:#}");

    assert_eq!(set(subject, &vm, &["--balloon-mib", "96"])["balloon_mib"], 96);
    let after = server.until(&metrics, SOON, holds(96)).await;
    let left = |it: &Value| it["guest"]["memory_available_bytes"].as_u64().unwrap();
    if subject.has_kernel {
        assert!(left(&after) + (40 << 20) < left(&before), "{before:#} {after:#}");
        assert!(after["disk"]["read_bytes"].as_u64().unwrap() > 1 << 16, "{after:#}");
    }
    server.post(&format!("{path}/pause"), json!({})).await;
    let paused = server.get(&metrics).await;
    assert!(paused.get("guest").is_none() && paused["host"]["cpu_ms"].is_u64(), "{paused:#}");
    server.post(&format!("{path}/resume"), json!({})).await;

    if is_firecracker {
        assert!(after["raw"]["utc_timestamp_ms"].is_u64(), "{after:#}");
        disks_are_held_back_and_let_go(&server, subject, &vm).await;
        let net = json!({ "limits": { "net_rx_bytes_per_s": 1 << 20 } });
        assert_conflict(&server, &vm, net, "network interface").await;
    } else {
        assert_conflict(&server, &vm, json!({ "limits": limits }), "qemu").await;
    }
    server.stop().await;
    subject.place.assert_no_vm_is_left();
}

async fn a_process_is_counted_and_not_changed(server: &Server<'_>) {
    let vm = server.vm(json!({})).await;
    assert_conflict(server, &vm, json!({ "balloon_mib": 16 }), "process").await;
    let metrics = server.get(&format!("/vms/{}/metrics", id(&vm))).await;
    assert!(metrics["host"]["resident_bytes"].as_u64().unwrap() > 0, "{metrics:#}");
    assert!(metrics["guest"]["processes"].as_u64().unwrap() > 0, "{metrics:#}");
    assert!(metrics.get("balloon").is_none(), "{metrics:#}");
}

/// What a limit holds back takes its time, and none once it is lifted.
async fn disks_are_held_back_and_let_go(server: &Server<'_>, subject: &Subject, vm: &Value) {
    let limited = set(subject, vm, &["--disk-bandwidth", "1M"]);
    let expected = json!({ "disk_bytes_per_s": 1 << 20, "disk_ops_per_s": 5000 });
    assert_eq!(limited["limits"], expected, "{limited:#}");
    if !subject.has_kernel {
        return;
    }
    let read = async || {
        let began = Instant::now();
        let dd = "dd if=/dev/vda of=/dev/null bs=256k count=16 iflag=direct 2>&1";
        let ran = execute(server, vm, dd).await;
        assert_eq!(ran["result"]["exit_code"], 0, "{ran:#}");
        began.elapsed()
    };
    let held_back = read().await;
    let metrics = server.get(&format!("/vms/{}/metrics", id(vm))).await;
    assert!(metrics["disk"]["throttled"].as_u64().unwrap() > 0, "{metrics:#}");
    assert!(held_back > Duration::from_secs(2), "4 MiB came in {held_back:?}");
    set(subject, vm, &["--disk-bandwidth", "0"]);
    let let_go = read().await;
    assert!(let_go * 2 < held_back, "{let_go:?} after {held_back:?}");
}
