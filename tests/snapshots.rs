//! What a snapshot is worth, as cases of the suite in [`crate::drivers`].
//!
//! The stand-in for Firecracker keeps nothing of a guest and shares the machine with its agent: a VM
//! that it restores cannot be made another, and so must never run. All that comes before is the same.

use crate::{
    drivers::{Subject, execute},
    world::{SOON, Server, id, state},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

/// A file of a snapshot.
fn file(subject: &Subject, snapshot: &str, name: &str) -> PathBuf {
    subject.place.path().join("snapshots").join(snapshot).join(name)
}

/// Turns a byte of a snapshot's file over; once more, and it is as it was.
fn spoil(subject: &Subject, snapshot: &str, name: &str) {
    let path = file(subject, snapshot, name);
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let at = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

/// The end of a VM that cannot start.
async fn failed(server: &Server<'_>, vm: Value) -> Value {
    let made = server.post("/vms", vm).await;
    let path = format!("/vms/{}", id(&made));
    server.until(&path, SOON, |vm| state(vm) == "failed").await["termination"].clone()
}

async fn snapshot(server: &Server<'_>, vm: &Value, name: &str, kind: &str) {
    let body = json!({ "name": name, "kind": kind });
    server.post(&format!("/vms/{}/snapshot", id(vm)), body).await;
}

/// Asks for a snapshot that is refused, and returns why.
async fn refused(server: &Server<'_>, vm: &Value, name: &str, kind: &str) -> String {
    let (path, body) = (format!("/vms/{}/snapshot", id(vm)), json!({ "name": name, "kind": kind }));
    let (status, problem) = server.call(Method::POST, &path, Some(body)).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem:#}");
    problem.to_string()
}

pub(crate) async fn a_restored_vm_goes_on_where_its_snapshot_was_taken(subject: &Subject) {
    let server = subject.server().await;
    // Made ready for it: QEMU gives such a VM no virtio socket.
    let vm = server.vm(subject.vm_but(json!({ "snapshots": "full" }))).await;
    if !subject.snapshots {
        refused(&server, &vm, "warm", "full").await;
        server.stop().await;
        return;
    }
    execute(&server, &vm, "echo memory > /dev/shm/mark; echo disk > /root/mark; sync").await;
    snapshot(&server, &vm, "warm", "full").await;
    let path = format!("/vms/{}", id(&vm));
    assert_eq!(state(&server.get(&path).await), "running", "the original goes on");
    execute(&server, &vm, "echo later > /root/mark").await;
    // One that stands still can be taken as often as wanted, and goes on afterwards.
    server.post(&format!("{path}/pause"), json!({})).await;
    snapshot(&server, &vm, "cold", "full").await;
    snapshot(&server, &vm, "colder", "full").await;
    server.post(&format!("{path}/resume"), json!({})).await;
    assert_eq!(execute(&server, &vm, "cat /root/mark").await["stdout"], "later\n");

    let from = subject.vm_but(json!({ "snapshot": "warm" }));
    if subject.has_kernel {
        two_of_one_are_each_themselves(&server, &from).await;
    } else {
        let end = failed(&server, from.clone()).await;
        assert!(end.to_string().contains("could not be made another"), "{end:#}");
    }
    what_does_not_fit_is_refused_by_field(subject, &server, &from).await;
    server.stop().await;
    subject.place.assert_no_vm_is_left();
}

async fn two_of_one_are_each_themselves(server: &Server<'_>, from: &Value) {
    let (one, other) = tokio::join!(server.vm(from.clone()), server.vm(from.clone()));
    let seen = "cat /dev/shm/mark /root/mark; hostname; cat /proc/sys/kernel/random/uuid; date +%s";
    let (one_saw, other_saw) =
        tokio::join!(execute(server, &one, seen), execute(server, &other, seen));
    let lines = |saw: &Value| -> Vec<String> {
        saw["stdout"].as_str().unwrap().lines().map(str::to_owned).collect()
    };
    let (one_saw, other_saw) = (lines(&one_saw), lines(&other_saw));
    assert_eq!(one_saw[..2], ["memory", "disk"], "as it was when it was taken");
    assert_eq!(other_saw[..2], ["memory", "disk"]);
    assert_eq!(one_saw[2], id(&one).replace('_', "-"), "each is itself");
    assert_eq!(other_saw[2], id(&other).replace('_', "-"));
    assert_ne!(one_saw[3], other_saw[3], "no two have the same random numbers");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let clock: u64 = one_saw[4].parse().unwrap();
    assert!(now.as_secs().abs_diff(clock) < 30, "its clock says {clock}, and it is {now:?}");
}

async fn what_does_not_fit_is_refused_by_field(
    subject: &Subject,
    server: &Server<'_>,
    from: &Value,
) {
    let mut larger = from.clone();
    larger["memory_mib"] = json!(640);
    let end = failed(server, larger).await;
    assert!(end.to_string().contains("its memory_mib is"), "{end:#}");
    for (name, field) in [("overlay.ext4", "disks.overlay.digest"), ("state", "state.digest")] {
        spoil(subject, "warm", name);
        let end = failed(server, from.clone()).await;
        assert!(end.to_string().contains(&format!("its {field} is")), "{end:#}");
        spoil(subject, "warm", name);
    }
    let path = file(subject, "warm", "manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    let other = text.replace(r#""machine": "#, r#""machine": "pc-other-1.0", "was": "#);
    assert_ne!(text, other, "{text}");
    fs::write(&path, other).unwrap();
    let end = failed(server, from.clone()).await;
    assert!(end.to_string().contains("its vmm.machine is"), "{end:#}");
    fs::write(&path, text).unwrap();
}

pub(crate) async fn a_chain_of_diffs_is_restored_as_one(subject: &Subject) {
    let server = subject.server().await;
    let ready = subject.vm_but(json!({ "snapshots": "diff" }));
    let vm = server.vm(ready.clone()).await;
    let mark = async |name: &str| {
        execute(&server, &vm, &format!("echo {name} > /dev/shm/{name}")).await;
    };
    let early = refused(&server, &vm, "early", "diff").await;
    assert!(early.contains("take a full one first"), "{early}");
    mark("one").await;
    snapshot(&server, &vm, "one", "full").await;
    mark("two").await;
    snapshot(&server, &vm, "two", "diff").await;
    mark("three").await;
    snapshot(&server, &vm, "three", "diff").await;
    let bytes = |snapshot| fs::metadata(file(subject, snapshot, "memory")).unwrap().blocks() * 512;
    assert!(bytes("three") <= bytes("one") / 2, "{} of {}", bytes("three"), bytes("one"));

    let from = subject.vm_but(json!({ "snapshot": "three", "snapshots": "diff" }));
    if subject.has_kernel {
        let restored = server.vm(from.clone()).await;
        let saw = execute(&server, &restored, "cd /dev/shm; cat one two three").await;
        assert_eq!(saw["stdout"], "one\ntwo\nthree\n", "{saw:#}");
        // The chain goes on from a VM that was restored from it.
        snapshot(&server, &restored, "four", "diff").await;
        let text = fs::read(file(subject, "four", "manifest.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(manifest["base"]["name"], "three", "{manifest:#}");
    }

    // A pause takes a snapshot that is thrown away, and with it what was noted.
    server.post(&format!("/vms/{}/pause", id(&vm)), json!({})).await;
    let forgotten = refused(&server, &vm, "five", "diff").await;
    assert!(forgotten.contains("forgotten"), "{forgotten}");
    snapshot(&server, &vm, "five", "full").await;
    snapshot(&server, &vm, "six", "diff").await;

    spoil(subject, "one", "memory");
    let end = failed(&server, from).await;
    assert!(end.to_string().contains("its base.memory.digest is"), "{end:#}");
    server.stop().await;
    subject.place.assert_no_vm_is_left();
}

pub(crate) async fn diffs_are_refused_before_anything_starts(subject: &Subject) {
    let server = subject.server().await;
    let end = failed(&server, subject.vm_but(json!({ "snapshots": "diff" }))).await;
    assert!(end.to_string().contains("writes all of a guest's memory"), "{end:#}");
    server.stop().await;
    subject.place.assert_no_vm_is_left();
}

pub(crate) async fn a_large_diff_is_refused_where_it_may_be_corrupt(subject: &Subject) {
    let server = subject.server().await;
    let large = json!({ "snapshots": "diff", "memory_mib": 4096 });
    let vm = server.vm(subject.vm_but(large)).await;
    snapshot(&server, &vm, "one", "full").await;
    let why = refused(&server, &vm, "two", "diff").await;
    assert!(why.contains("1.14.2") && why.contains("3 GiB"), "{why}");
    // It is none the worse for it, and full ones are taken still.
    execute(&server, &vm, "true").await;
    snapshot(&server, &vm, "two", "full").await;
    server.stop().await;
    subject.place.assert_no_vm_is_left();
}

pub(crate) async fn a_workspaces_vm_is_snapshotted_paused_and_for_its_workspace(subject: &Subject) {
    let server = subject.server().await;
    let workspace = server.workspace("hibernating").await;
    server.answer(&workspace, "true").await;
    let vm = json!({ "id": server.get(&workspace).await["vm_id"] });
    let running = refused(&server, &vm, "asleep", "full").await;
    assert!(running.contains("pause it first"), "{running}");
    server.post(&format!("/vms/{}/pause", id(&vm)), json!({})).await;
    snapshot(&server, &vm, "asleep", "full").await;
    assert!(!file(subject, "asleep", "overlay.ext4").exists(), "the workspace has its disk");
    let end = failed(&server, subject.vm_but(json!({ "snapshot": "asleep" }))).await;
    assert!(end.to_string().contains("its workspace is ws_"), "{end:#}");
    server.stop().await;
    subject.place.assert_no_vm_is_left();
}
