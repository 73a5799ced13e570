//! What a user owns outlives its VMs.

use crate::world::{BOOT, Place, Server, id, state};
use aetherium_model::resources::DriverKind;
use reqwest::Method;
use serde_json::{Value, json};
use std::{path::Path, process::Command};

#[tokio::test]
async fn an_idle_workspace_gives_its_vm_back_and_keeps_its_files() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Qemu).await;
    let body = json!({ "name": "sleepy", "ai_assistant": "shell", "idle_timeout_s": 2, "idle_action": "stop" });
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
    assert_eq!(server.call(Method::GET, &going, None).await.0, 404);
    assert_eq!(server.answer(&staying, "echo here").await, "here\n");
    assert_eq!(place.processes().len(), 1, "only the other workspace's VM is left");
    server.stop().await;
    place.assert_no_vm_is_left();
}

/// What the host holds of a workspace's disk, in MiB.
fn held_mib(disk: &Value) -> u64 {
    disk["used_bytes"].as_u64().unwrap() >> 20
}

#[tokio::test]
async fn a_full_disk_is_its_commands_problem_and_what_they_remove_goes_back_to_the_host() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Qemu).await;
    let body = json!({ "name": "full", "ai_assistant": "shell", "disk_mib": 300 });
    let workspace = format!("/workspaces/{}", id(&server.post("/workspaces", body).await));
    let disk = format!("{workspace}/disk");
    let fill = "said=$(head -c 400M /dev/zero 2>&1 >/root/full); echo $? $said; sync";
    let said = server.answer(&workspace, fill).await;
    assert!(said.starts_with('1') && said.contains("No space left on device"), "{said}");
    let full = server.get(&disk).await;
    assert!(held_mib(&full) > 200, "{full:#}");

    assert_eq!(
        server.answer(&workspace, "rm /root/full; sync; echo on > /a; cat /a").await,
        "on\n"
    );
    let vm = server.get(&workspace).await["vm_id"].clone();
    assert_eq!(vm, full["vm_id"], "the same VM goes on");
    server.until(&disk, BOOT, |disk| held_mib(disk) < 50).await;

    a_disk_in_use_is_snapshotted_and_nothing_else(&server, &workspace).await;
    let task = server.delete(&format!("/vms/{}", vm.as_str().unwrap())).await;
    let task = format!("/tasks/{}", id(&task));
    server.until(&task, BOOT, |task| state(task) == "succeeded").await;
    a_disk_without_a_vm_is_exported_restored_and_grown(&server, &workspace).await;
    server.stop().await;
    place.assert_no_vm_is_left();
}

async fn a_disk_in_use_is_snapshotted_and_nothing_else(server: &Server<'_>, workspace: &str) {
    server.answer(workspace, "echo before > /root/file").await;
    let kept = server.post(&format!("{workspace}/disk/snapshots"), json!({ "name": "s" })).await;
    assert_eq!(kept["snapshots"][0]["name"], "s", "{kept:#}");
    server.answer(workspace, "echo after > /root/file").await;
    for (what, body) in [
        ("snapshots", json!({ "name": "s" })),
        ("snapshots/s/restore", json!({})),
        ("grow", json!({ "size_mib": 1024 })),
    ] {
        let path = format!("{workspace}/disk/{what}");
        let (status, problem) = server.call(Method::POST, &path, Some(body)).await;
        assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("conflict")), "{problem:#}");
        assert!(problem["remedy"].as_str().is_some_and(|it| !it.is_empty()), "{problem:#}");
    }
}

async fn a_disk_without_a_vm_is_exported_restored_and_grown(server: &Server<'_>, workspace: &str) {
    let dir = server.place.path();
    let export = || {
        let mut command = server.place.aetherium();
        command.args(["--json", "ws", "disk", "export", "full"]).arg(dir.join("full.tar"));
        command.output().unwrap()
    };
    let exported = export();
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    let told: Value = serde_json::from_slice(&exported.stdout).unwrap();
    let archive = std::fs::metadata(dir.join("full.tar")).unwrap().len();
    assert_eq!(told["bytes"], archive);
    assert!(archive < 50 << 20, "{archive} bytes: its holes are in it");
    assert!(!export().status.success(), "a file that is there is not written over");
    assert_eq!(file_of_archive(dir), "after\n");

    let path = format!("{workspace}/disk/grow");
    let (status, problem) =
        server.call(Method::POST, &path, Some(json!({ "size_mib": 200 }))).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["field"]), (422, &json!("size_mib")));
    server.post(&format!("{workspace}/disk/snapshots/s/restore"), json!({})).await;
    let grown = server.post(&path, json!({ "size_mib": 1024 })).await;
    assert_eq!(grown["size_mib"], 1024, "{grown:#}");
    let seen = server.answer(workspace, "cat /root/file; df -m / | awk 'END { print $2 }'").await;
    let (file, mib) = seen.split_once('\n').unwrap();
    assert_eq!(file, "before");
    assert!(mib.trim().parse::<u32>().unwrap() > 900, "{mib}");

    let snapshot = format!("{workspace}/disk/snapshots/s");
    assert_eq!(server.delete(&snapshot).await["snapshots"], json!([]));
    assert_eq!(server.call(Method::DELETE, &snapshot, None).await.0, 404);
}

/// `/root/file` of the disk in the archive, read without any VM.
fn file_of_archive(dir: &Path) -> String {
    let run = |command: &mut Command| {
        let output = command.current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    run(Command::new("tar").args(["-xf", "full.tar"]));
    run(Command::new("debugfs").args(["-R", "cat /upper/root/file", "disk.ext4"]))
}

#[tokio::test]
async fn a_hundred_workspaces_that_work_at_once_keep_each_its_order_and_to_themselves() {
    const PROMPTS: usize = 20;
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let shared = tempfile::tempdir().unwrap();
    // Each prompt tells how many of its workspace went before it, and that none is at it now.
    let one_after_another = |number: usize, turn: usize| {
        let own = shared.path().join(number.to_string());
        let own = own.display();
        format!(
            "mkdir {own}.busy && echo {turn} >>{own} && echo {number}: $(wc -l <{own}) && rmdir {own}.busy"
        )
    };
    let work = async |number: usize| {
        let workspace = server.workspace(&format!("busy-{number}")).await;
        let mut prompts = Vec::new();
        for turn in 1..=PROMPTS {
            prompts.push(server.prompt(&workspace, &one_after_another(number, turn)).await);
        }
        for (turn, prompt) in (1..).zip(&prompts) {
            // Ends with the prompt; a hundred who ask again and again would be the test's own load.
            server.get(&format!("{prompt}/events")).await;
            let (end, output) = server.ended(prompt).await;
            assert_eq!(state(&end), "completed", "{end:#}");
            assert_eq!(output, format!("{number}: {turn}\n"), "{end:#}");
        }
        let done = std::fs::read_to_string(shared.path().join(number.to_string())).unwrap();
        let order: Vec<usize> = done.lines().map(|it| it.parse().unwrap()).collect();
        assert_eq!(order, (1..=PROMPTS).collect::<Vec<_>>(), "workspace {number}");
    };
    futures::future::join_all((0..100).map(work)).await;
    assert_eq!(place.processes().len(), 100, "each has a VM of its own");
    server.stop().await;
    place.assert_no_vm_is_left();
}
