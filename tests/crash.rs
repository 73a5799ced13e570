//! kill -9 of the server, and what the next one makes of it.

use crate::world::{BOOT, Place, SOON, Server, id, state};
use aetherium_model::resources::DriverKind;
use serde_json::json;
use std::{fs, time::Duration};

/// Says a numbered line every tenth of a second until `file` is there, then how often it was begun.
fn counting_until(file: &str, effects: &str) -> String {
    format!(
        "echo ran >> {effects}; n=0; until [ -e {file} ]; do \
         echo line $n; n=$((n+1)); sleep 0.1; done; cat {effects}"
    )
}

/// Every line once, in order, to the end.
fn assert_whole(output: &str) {
    let lines: Vec<&str> = output.lines().collect();
    let (last, counted) = lines.split_last().unwrap();
    assert_eq!(*last, "ran", "{output}");
    for (n, line) in counted.iter().enumerate() {
        assert_eq!(*line, format!("line {n}"), "{output}");
    }
}

#[tokio::test]
async fn a_vm_and_its_prompt_outlive_a_killed_server_and_not_a_line_is_lost_or_said_twice() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Qemu).await;
    let workspace = server.workspace("crash").await;
    let script = counting_until("/root/go", "/root/effects");
    let prompt = server.prompt(&workspace, &script).await;
    let output = format!("{prompt}/output?stream=stdout");
    let says = |line: &'static str| {
        move |it: &serde_json::Value| it.as_str().is_some_and(|it| it.contains(line))
    };
    server.until(&output, BOOT, says("line 3\n")).await;
    let vm = server.get(&prompt).await["vm_id"].as_str().unwrap().to_owned();
    let queued = server.prompt(&workspace, "cat /root/effects").await;
    let before = place.processes();
    assert!(!before.is_empty());
    server.kill();
    assert_eq!(place.processes(), before, "a VM must not end with its server");

    let server = Server::start(&place, DriverKind::Qemu).await;
    let seen = text_lines(&server.get(&output).await);
    // It is followed again: more comes.
    server.until(&output, SOON, |it| text_lines(it) > seen).await;
    assert_eq!(state(&server.get(&prompt).await), "running");
    let go = json!({ "argv": ["touch", "/root/go"] });
    server.post(&format!("/vms/{vm}/execute"), go).await;
    let (end, whole) = server.ended(&prompt).await;
    assert_eq!((state(&end), &end["result"]["exit_code"]), ("completed", &json!(0)), "{end:#}");
    assert_whole(&whole);
    // The VM was taken over, and what waited runs in it.
    let (second, output) = server.ended(&queued).await;
    assert_eq!(output, "ran\n", "{second:#}");
    assert_eq!(second["vm_id"], json!(vm), "the VM was not taken over\n{}", server.log());
    assert_eq!(place.processes(), before);
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_prompt_outlives_a_lost_connection_and_can_still_be_cancelled_after_a_crash() {
    let place = Place::new();
    let path = |name: &str| place.path().join(name).display().to_string();
    let server = Server::start(&place, DriverKind::Process).await;
    let workspace = server.workspace("lost").await;
    let prompt = server.prompt(&workspace, &counting_until(&path("go"), &path("effects"))).await;
    let output = format!("{prompt}/output?stream=stdout");
    server.until(&output, BOOT, |it| text_lines(it) > 3).await;
    // Silent until it is taken for dead, and then back.
    let agents: Vec<_> = place.pids().collect();
    for agent in &agents {
        rustix::process::kill_process(*agent, rustix::process::Signal::STOP).unwrap();
    }
    let deadline = std::time::Instant::now() + SOON;
    while !server.log().contains("its command is looked for again") {
        assert!(std::time::Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for agent in &agents {
        rustix::process::kill_process(*agent, rustix::process::Signal::CONT).unwrap();
    }
    let seen = text_lines(&server.get(&output).await);
    server.until(&output, SOON, |it| text_lines(it) > seen).await;
    fs::write(path("go"), "").unwrap();
    let (end, whole) = server.ended(&prompt).await;
    assert_eq!(state(&end), "completed", "{end:#}");
    assert_whole(&whole);

    // `exec`: what is cancelled is all there is.
    let script = format!("echo $$ > {}; exec sleep 600", path("pid"));
    let prompt = server.prompt(&workspace, &script).await;
    server
        .until(&prompt, SOON, |it| state(it) == "running" && place.path().join("pid").exists())
        .await;
    server.kill();
    let server = Server::start(&place, DriverKind::Process).await;
    server.post(&format!("{prompt}/cancel"), json!({})).await;
    let (end, _) = server.ended(&prompt).await;
    assert_eq!(state(&end), "cancelled", "{end:#}");
    let pid = fs::read_to_string(path("pid")).unwrap();
    assert!(!std::path::Path::new("/proc").join(pid.trim()).exists(), "it runs on");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_vm_that_died_while_no_server_ran_is_cleaned_up_and_its_workspace_gets_another() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let workspace = server.workspace("gone").await;
    // It ends with this test's directory, whatever becomes of its agent.
    let script = format!("echo up; while [ -d {} ]; do sleep 0.1; done", place.path().display());
    let prompt = server.prompt(&workspace, &script).await;
    let output = format!("{prompt}/output?stream=stdout");
    server.until(&output, BOOT, |it| text_lines(it) == 1).await;
    let vm = server.get(&workspace).await["vm_id"].as_str().unwrap().to_owned();
    server.kill();
    for stray in aetherium_vmm::strays(&place.path().join("vms")).unwrap() {
        stray.kill(SOON).await.unwrap();
    }

    let server = Server::start(&place, DriverKind::Process).await;
    let record = server.get(&format!("/vms/{vm}")).await;
    assert_eq!((state(&record), &record["termination"]["code"]), ("failed", &json!("not_adopted")));
    // Nobody can say how far it came.
    let (end, _) = server.ended(&prompt).await;
    assert_eq!(state(&end), "interrupted", "{end:#}");
    assert!(end["fault"]["remedy"].as_str().is_some_and(|it| !it.is_empty()), "{end:#}");
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

/// How many whole lines an output has so far.
fn text_lines(output: &serde_json::Value) -> usize {
    output.as_str().unwrap_or_default().matches('\n').count()
}

fn lines(path: &std::path::Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}
