//! kill -9 of the server, and what the next one makes of it.

use crate::world::{BOOT, Place, SOON, Server, id, state};
use aetherium_model::resources::DriverKind;
use serde_json::json;
use std::{fs, time::Duration};

#[tokio::test]
async fn a_vm_outlives_a_killed_server_and_its_prompt_is_interrupted_not_run_again() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Qemu).await;
    let workspace = server.workspace("crash").await;
    let prompt =
        server.prompt(&workspace, "echo ran >> /root/effects; sync; echo started; sleep 600").await;
    let output = format!("{prompt}/output?stream=stdout");
    server.until(&output, BOOT, |it| it.as_str().is_some_and(|it| it.contains("started"))).await;
    let vm = server.get(&prompt).await["vm_id"].as_str().unwrap().to_owned();
    let queued = server.prompt(&workspace, "cat /root/effects").await;
    let before = place.processes();
    assert!(!before.is_empty());
    server.kill();
    assert_eq!(place.processes(), before, "a VM must not end with its server");

    let server = Server::start(&place, DriverKind::Qemu).await;
    let end = server.until(&prompt, SOON, |it| state(it) != "running").await;
    assert_eq!(state(&end), "interrupted", "{end:#}");
    assert!(end["fault"]["remedy"].as_str().is_some_and(|it| !it.is_empty()), "{end:#}");
    // The VM was taken over, what waited runs in it, and the first prompt ran exactly once.
    let (second, output) = server.ended(&queued).await;
    assert_eq!(output, "ran\n", "{second:#}");
    assert_eq!(second["vm_id"], json!(vm), "the VM was not taken over\n{}", server.log());
    assert_eq!(place.processes(), before);
    // What the killed server's prompt had started in the guest is gone.
    let left = server.answer(&workspace, "grep -l sleep /proc/[0-9]*/comm || true").await;
    assert_eq!(left, "");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_vm_that_died_while_no_server_ran_is_cleaned_up_and_its_workspace_gets_another() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let workspace = server.workspace("gone").await;
    server.answer(&workspace, "true").await;
    let vm = server.get(&workspace).await["vm_id"].as_str().unwrap().to_owned();
    server.kill();
    for stray in aetherium_vmm::strays(&place.path().join("vms")).unwrap() {
        stray.kill(SOON).await.unwrap();
    }

    let server = Server::start(&place, DriverKind::Process).await;
    let record = server.get(&format!("/vms/{vm}")).await;
    assert_eq!((state(&record), &record["termination"]["code"]), ("failed", &json!("not_adopted")));
    assert_eq!(server.answer(&workspace, "echo again").await, "again\n");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn no_prompt_is_lost_or_run_twice_however_often_the_server_is_killed() {
    nothing_is_lost_or_run_twice_by_kills(&[]).await;
}

/// A server with `options` is killed again and again while it works off prompts.
pub(crate) async fn nothing_is_lost_or_run_twice_by_kills(options: &[&str]) {
    const PROMPTS: usize = 24;
    let place = Place::new();
    let effects = place.path().join("effects");
    let mut server = Server::start_with(&place, DriverKind::Process, options).await;
    let mut prompts = Vec::new();
    for ws in 0..3 {
        let workspace = server.workspace(&format!("w{ws}")).await;
        for n in 0..PROMPTS / 3 {
            let line = format!("echo {ws}-{n} >> {}; sleep 0.1", effects.display());
            prompts.push(server.prompt(&workspace, &line).await);
        }
    }
    for _ in 0..4 {
        // A moment that depends on how far the work has come, not on a clock.
        let done = lines(&effects).len();
        let deadline = std::time::Instant::now() + SOON;
        while lines(&effects).len() < (done + 2).min(PROMPTS)
            && std::time::Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.kill();
        server = Server::start_with(&place, DriverKind::Process, options).await;
    }
    let mut completed = 0;
    for prompt in &prompts {
        let (end, _) = server.ended(prompt).await;
        assert!(["completed", "interrupted"].contains(&state(&end)), "{end:#}");
        completed += usize::from(state(&end) == "completed");
    }
    let mut seen = lines(&effects);
    let ran = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(ran, seen.len(), "something ran twice");
    assert!(ran >= completed, "{completed} are said to have completed, {ran} ran");
    assert!(
        completed >= PROMPTS - 3 * 4,
        "only {completed} completed: more were given up than ran"
    );
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn deleting_a_vm_leaves_the_workspace_its_prompts_and_its_files() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Qemu).await;
    let workspace = server.workspace("kept").await;
    server.answer(&workspace, "echo precious > /root/file").await;
    let first = server.get(&workspace).await["vm_id"].as_str().unwrap().to_owned();
    let task = server.delete(&format!("/vms/{first}")).await;
    server.until(&format!("/tasks/{}", id(&task)), SOON, |it| state(it) == "succeeded").await;
    let record = server.get(&format!("/vms/{first}")).await;
    assert_eq!((state(&record), &record["termination"]["code"]), ("stopped", &json!("requested")));

    assert_eq!(server.answer(&workspace, "cat /root/file").await, "precious\n");
    assert_ne!(server.get(&workspace).await["vm_id"], json!(first));
    let prompts = server.get(&format!("{workspace}/prompts")).await;
    assert_eq!(prompts["items"].as_array().unwrap().len(), 2);
    server.stop().await;
    place.assert_no_vm_is_left();
}

fn lines(path: &std::path::Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}
