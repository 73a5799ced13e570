//! The main job, as it is told to a new user: a workspace, a prompt, its output, from a real VM.

use crate::world::{BOOT, Place, Server, id, state, test_template, text};
use aetherium_model::resources::DriverKind;
use serde_json::{Value, json};
use std::process::Command;

fn curl(server: &Server<'_>, path: &str, body: &str) -> Value {
    let output = Command::new("curl")
        .args(["-sS", "-X", "POST", "-H", "Content-Type: application/json", "-d", body])
        .args(["-H", &format!("X-API-Key: {}", server.key())])
        .arg(format!("{}/api/v1{path}", server.url()))
        .output()
        .expect("curl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn a_prompt_sent_with_curl_runs_in_a_vm_that_is_started_for_it() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Qemu).await;
    let workspace =
        curl(&server, "/workspaces", r#"{"name":"test-vm-comm","ai_assistant":"shell"}"#);
    let path = format!("/workspaces/{}", id(&workspace));
    assert!(
        server.get(&path).await.get("vm_id").is_none(),
        "a VM was started before it was needed"
    );

    let prompt = curl(&server, &format!("{path}/prompts"), r#"{"prompt":"echo Hello from VM"}"#);
    assert_eq!(state(&prompt), "queued");
    let (end, output) = server.ended(&format!("{path}/prompts/{}", id(&prompt))).await;
    assert_eq!(output, "Hello from VM\n");
    assert_eq!((state(&end), &end["result"]["exit_code"]), ("completed", &json!(0)), "{end:#}");

    let vm = server.get(&format!("/vms/{}", end["vm_id"].as_str().unwrap())).await;
    assert_eq!((state(&vm), &vm["driver"]), ("running", &json!("qemu")));
    let console = text(&server.get(&format!("/vms/{}/console", id(&vm))).await);
    assert!(console.contains("stage=listening"), "{console}");

    let task = server.delete(&path).await;
    server.until(&format!("/tasks/{}", id(&task)), BOOT, |task| state(task) == "succeeded").await;
    assert_eq!(place.processes(), Vec::<String>::new());
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn the_guest_is_a_machine_of_its_own() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Qemu).await;
    let vm = server.vm(json!({ "memory_mib": 256, "disk_mib": 300 })).await;
    let run = async |line: &str| {
        let body = json!({ "argv": ["sh", "-c", line] });
        let ran = server.post(&format!("/vms/{}/execute", id(&vm)), body).await;
        assert_eq!(ran["result"]["exit_code"], 0, "{ran:#}");
        ran["stdout"].as_str().unwrap().trim().to_owned()
    };
    assert_eq!(run("uname -r").await, test_template().manifest.kernel.release);
    assert_eq!(run("cat /proc/1/comm").await, "init");
    let memory_kib: u64 = run("awk '/MemTotal/{print $2}' /proc/meminfo").await.parse().unwrap();
    assert!((150_000..262_144).contains(&memory_kib), "{memory_kib} KiB");
    let disk_kib: u64 = run("df -k / | awk 'END{print $2}'").await.parse().unwrap();
    assert!((200_000..307_200).contains(&disk_kib), "{disk_kib} KiB");
    // What is written goes to the VM's own disk; the template stays as it is.
    assert_eq!(run("echo kept > /etc/mine && sync && cat /etc/mine").await, "kept");
    // Isolated: not even the host's loopback, which user-mode networking would lend it.
    let port = server.url().rsplit(':').next().unwrap();
    let reach = format!(
        "timeout 3 bash -c 'echo > /dev/tcp/172.16.0.1/{port}' 2>/dev/null && echo open || echo closed"
    );
    assert_eq!(run(&reach).await, "closed");
    server.stop().await;
    place.assert_no_vm_is_left();
}
