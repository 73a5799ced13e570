//! What runs in a workspace goes on after its VM was idle; and whatever happens to its memory, the
//! workspace can be used.

use crate::{
    drivers::Subject,
    world::{BOOT, Place, SOON, Server, id, state},
};
use aetherium_model::resources::DriverKind;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

/// Counts in the background, in memory alone, and says which process it is.
const COUNT: &str = "setsid sh -c 'n=0; while :; do n=$((n+1)); echo $n > /dev/shm/count; \
                     sleep 0.1; done' > /dev/null 2>&1 < /dev/null & echo $!";

/// A server, and a workspace of it that is made ready to hibernate.
struct Sleeper<'a> {
    server: Server<'a>,
    workspace: String,
}

impl<'a> Sleeper<'a> {
    async fn new(place: &'a Place, more: Value) -> Self {
        let server = Server::start(place, DriverKind::Qemu).await;
        let mut body = json!({ "name": "sleeper", "ai_assistant": "shell", "memory_mib": 192 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let workspace = format!("/workspaces/{}", id(&server.post("/workspaces", body).await));
        Self { server, workspace }
    }

    /// Kills the server and starts it again.
    async fn after_a_kill(self, place: &'a Place) -> Self {
        self.server.kill();
        Self { server: Server::start(place, DriverKind::Qemu).await, workspace: self.workspace }
    }

    async fn answer(&self, prompt: &str) -> String {
        self.server.answer(&self.workspace, prompt).await
    }

    async fn lifecycle(&self) -> String {
        let workspace = self.server.get(&self.workspace).await;
        workspace["lifecycle"].as_str().unwrap().to_owned()
    }

    async fn verb(&self, verb: &str) -> Value {
        self.server.post(&format!("{}/{verb}", self.workspace), json!({})).await
    }

    /// What lies beside the disk.
    fn beside(&self, place: &Place, name: &str) -> Vec<PathBuf> {
        let dir = place.path().join(self.workspace.trim_start_matches('/'));
        let entries = fs::read_dir(dir).unwrap().map(|it| it.unwrap().path());
        let starts = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(name);
        entries.filter(starts).collect()
    }

    /// The process that counts is the one it was, and counts.
    async fn assert_counts_on(&self, process: &str) {
        let script = format!(
            "kill -0 {process} && was=$(cat /dev/shm/count) && \
             until [ $(cat /dev/shm/count) -gt $was ]; do sleep 0.1; done; echo counts"
        );
        assert_eq!(self.answer(&script).await, "counts\n");
    }

    /// The stages that a prompt's log tells of, and what is said of them.
    async fn stages(&self, prompt: &str) -> String {
        let path = self.server.prompt(&self.workspace, prompt).await;
        let (end, _) = self.server.ended(&path).await;
        assert_eq!(state(&end), "completed", "{end:#}\n{}", self.server.log());
        let (_, events) = self.server.call(Method::GET, &format!("{path}/events"), None).await;
        events.as_str().unwrap().to_owned()
    }
}

/// Changes a byte in the middle of a file.
fn spoil(path: &PathBuf) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let (mut byte, at) = ([0], file.metadata().unwrap().len() / 2);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

#[tokio::test]
async fn what_runs_in_an_idle_workspace_goes_on_with_its_next_prompt() {
    let place = Place::new();
    let idle = json!({ "idle_timeout_s": 3, "idle_action": "hibernate" });
    let it = Sleeper::new(&place, idle).await;
    let asked = Instant::now();
    let process =
        it.answer(&format!("echo kept > /root/file; hostname > /root/was; {COUNT}")).await;
    let (cold, process) = (asked.elapsed(), process.trim().to_owned());
    let first = it.server.get(&it.workspace).await["vm_id"].as_str().unwrap().to_owned();

    let vm = format!("/vms/{first}");
    let ended = it.server.until(&vm, BOOT, |vm| state(vm) == "stopped").await;
    assert_eq!(ended["termination"]["code"], "hibernated", "{ended:#}");
    let workspace = it.server.get(&it.workspace).await;
    assert_eq!(workspace["lifecycle"], "hibernated", "{workspace:#}");
    assert!(workspace["hibernation"]["bytes"].as_u64().unwrap() > 1 << 20, "{workspace:#}");
    place.assert_no_vm_is_left_but_the_server();
    // Its memory is of use only with the disk as it is.
    let (status, why) = it
        .server
        .call(
            Method::POST,
            &format!("{}/disk/grow", it.workspace),
            Some(json!({ "size_mib": 9999 })),
        )
        .await;
    assert_eq!(status, StatusCode::CONFLICT, "{why:#}");
    assert!(why.to_string().contains("hibernated VM"), "{why:#}");

    // A restart of the server changes nothing.
    let it = it.after_a_kill(&place).await;
    assert_eq!(it.lifecycle().await, "hibernated");
    let asked = Instant::now();
    assert_eq!(it.answer("cat /root/file").await, "kept\n");
    eprintln!("first output: cold boot {cold:?}, woken {:?}", asked.elapsed());
    it.assert_counts_on(&process).await;
    let names = it.answer("cat /root/was; hostname").await;
    let names: Vec<&str> = names.lines().collect();
    assert_ne!(names[0], names[1], "it is another VM, and knows it");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let clock: u64 = it.answer("date +%s").await.trim().parse().unwrap();
    assert!(now.as_secs().abs_diff(clock) < 30, "its clock says {clock}, and it is {now:?}");
    assert_eq!(it.beside(&place, "hibernation"), Vec::<PathBuf>::new(), "it was spent");
    assert_eq!(it.beside(&place, "."), Vec::<PathBuf>::new());
    it.server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_kill_while_memory_is_written_loses_nothing_and_damaged_memory_is_told_and_booted_past() {
    let place = Place::new();
    let it = Sleeper::new(&place, json!({ "idle_action": "hibernate" })).await;
    let process = it.answer(&format!("echo kept > /root/file; {COUNT}")).await;
    let process = process.trim().to_owned();
    let vm = it.server.get(&it.workspace).await["vm_id"].clone();

    // Killed in the middle: the VM stands still, and part of its memory is written.
    let (http, url) = (crate::world::http(), it.server.url().to_owned());
    let request = http
        .post(format!("{url}/api/v1{}/hibernate", it.workspace))
        .bearer_auth(it.server.key())
        .json(&json!({}));
    let asked = tokio::spawn(request.send());
    let deadline = Instant::now() + SOON;
    let is_being_written = || {
        let aside = it.beside(&place, ".hibernating-");
        aside.iter().any(|dir| fs::metadata(dir.join("state")).is_ok_and(|it| it.len() > 0))
    };
    while !is_being_written() {
        assert!(Instant::now() < deadline, "{}", it.server.log());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let it = it.after_a_kill(&place).await;
    let _ = asked.await.unwrap();
    it.assert_counts_on(&process).await;
    assert_eq!(it.server.get(&it.workspace).await["vm_id"], vm, "it goes on as it was");
    assert_eq!(it.beside(&place, ".hibernating-"), Vec::<PathBuf>::new());

    // Nobody hibernates what is at work.
    let busy = it.server.prompt(&it.workspace, "until [ -e /tmp/go ]; do sleep 0.1; done").await;
    it.server.until(&busy, BOOT, |it| state(it) == "running").await;
    let path = format!("{}/hibernate", it.workspace);
    let (status, why) = it.server.call(Method::POST, &path, Some(json!({}))).await;
    assert_eq!(status, StatusCode::CONFLICT, "{why:#}");
    let vm = it.server.get(&it.workspace).await["vm_id"].as_str().unwrap().to_owned();
    let go = json!({ "argv": ["touch", "/tmp/go"] });
    it.server.post(&format!("/vms/{vm}/execute"), go).await;
    it.server.ended(&busy).await;

    // What is asked for twice is done once; and waking needs no prompt.
    assert_eq!(it.verb("hibernate").await["lifecycle"], "hibernated");
    assert_eq!(it.verb("hibernate").await["lifecycle"], "hibernated");
    assert_eq!(it.verb("wake").await["lifecycle"], "active");
    it.assert_counts_on(&process).await;

    it.verb("hibernate").await;
    spoil(&it.beside(&place, "hibernation")[0].join("state"));
    let told = it.stages("[ $(cat /root/file) = kept ]").await;
    assert!(told.contains("hibernation_discarded"), "{told}");
    assert!(told.contains("its state.digest is"), "{told}");
    let lost = it.answer("[ -e /dev/shm/count ] || echo booted").await;
    assert_eq!(lost, "booted\n");
    assert_eq!(it.beside(&place, "hibernation"), Vec::<PathBuf>::new());
    it.server.delete(&it.workspace).await;
    it.server.stop().await;
    place.assert_no_vm_is_left();
}

/// With any driver that can write memory: it goes on, or where a guest cannot be made another, as with
/// the stand-in for Firecracker, a VM boots and says why.
pub(crate) async fn a_hibernated_workspace_goes_on_or_says_why_not(subject: &Subject) {
    let body = json!({ "name": "sleeper", "ai_assistant": "shell", "idle_action": "hibernate" });
    let server = subject.server().await;
    let workspace =
        format!("/workspaces/{}", id(&server.post("/workspaces", subject.vm_but(body)).await));
    let it = Sleeper { server, workspace };
    let process = match subject.has_kernel {
        // At rest when it is frozen, as what waits for somebody mostly is.
        true => it.answer("setsid sleep 600 > /dev/null 2>&1 < /dev/null & echo $!").await,
        false => it.answer("echo none").await,
    };
    assert_eq!(it.verb("hibernate").await["lifecycle"], "hibernated");
    subject.place.assert_no_vm_is_left_but_the_server();
    if subject.has_kernel {
        let (process, command) = (process.trim(), "tr '\\0' ' ' < /proc");
        assert_eq!(it.answer(&format!("{command}/{process}/cmdline")).await, "sleep 600 ");
        it.server.delete(&it.workspace).await;
        // A VM of its own: what a woken one's CPUs are made to look like is not in its next snapshot, and
        // guests of the kernel that real VMs have here depend on it.
        let body = json!({ "name": "holder", "ai_assistant": "shell", "idle_action": "hibernate" });
        let made = it.server.post("/workspaces", subject.vm_but(body)).await;
        let it = Sleeper { server: it.server, workspace: format!("/workspaces/{}", id(&made)) };
        assert_sleeps_on_encrypted(&it, subject).await;
        it.server.stop().await;
    } else {
        let told = it.stages("true").await;
        assert!(told.contains("hibernation_discarded"), "{told}");
        assert!(told.contains("could not be made another"), "{told}");
        it.server.stop().await;
    }
    subject.place.assert_no_vm_is_left();
}

/// Once the VM was given a secret, its memory goes through the host's own, and is on the disk encrypted alone.
async fn assert_sleeps_on_encrypted(it: &Sleeper<'_>, subject: &Subject) {
    let value = format!("planted-{:032x}", rand::random::<u128>());
    let set = json!({ "name": "HELD", "value": value });
    it.server.post(&format!("{}/secrets", it.workspace), set).await;
    let holds = "setsid sleep 600 > /dev/null 2>&1 < /dev/null & printf %s $!";
    let prompt = json!({ "prompt": holds, "secrets": ["HELD"] });
    let made = it.server.post(&format!("{}/prompts", it.workspace), prompt).await;
    let (_, holder) = it.server.ended(&format!("{}/prompts/{}", it.workspace, id(&made))).await;
    assert_eq!(it.verb("hibernate").await["lifecycle"], "hibernated");
    let (place, sought) = (subject.place.path().to_owned(), value.clone());
    let search = move || {
        let search = ["-rlazF", "-D", "skip", "-e", &sought];
        Command::new("grep").args(search).arg(place).output().unwrap()
    };
    // The connection to the server is looked after meanwhile.
    let found = tokio::task::spawn_blocking(search).await.unwrap();
    assert_eq!(String::from_utf8(found.stdout).unwrap(), "");
    let look = format!("tr '\\0' '\\n' < /proc/{holder}/environ | grep '^HELD=' | wc -c");
    let length = "HELD=\n".len() + value.len();
    assert_eq!(it.answer(&look).await, length.to_string());
    assert_eq!(it.beside(&subject.place, "hibernation"), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_worker_that_is_drained_keeps_the_memory_of_what_nobody_uses() {
    let place = Place::new();
    let it = Sleeper::new(&place, json!({ "idle_action": "hibernate" })).await;
    let process = it.answer(COUNT).await.trim().to_owned();
    let workers = it.server.get("/workers").await;
    let worker = format!("/workers/{}", id(&workers["items"][0]));
    it.server.post(&format!("{worker}/drain"), json!({})).await;
    it.server.until(&worker, BOOT, |worker| state(worker) == "drained").await;
    assert_eq!(it.lifecycle().await, "hibernated");
    it.server.post(&format!("{worker}/activate"), json!({})).await;
    it.assert_counts_on(&process).await;
    it.server.stop().await;
    place.assert_no_vm_is_left();
}
