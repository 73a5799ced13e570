//! A fleet: a gateway and workers, each a process of its own, over one PostgreSQL, with a Redis and without.

use crate::world::{AETHERIUM, Place, SOON, Server, http, id, state};
use aetherium_model::resources::DriverKind;
use serde_json::{Value, json};
use std::{
    fs,
    time::{Duration, Instant},
};
use test_servers::{Postgres, Redis};

/// Until a worker's row says what it has just begun: a heartbeat, and some more.
const HEARD_OF: Duration = Duration::from_secs(20);

/// The places of a gateway and two workers, and what they share.
struct Fleet {
    gateway: Place,
    workers: [Place; 2],
    options: Vec<String>,
    _redis: Option<Redis>,
}

impl Fleet {
    fn new() -> Self {
        let gateway = Place::new();
        let key = gateway.path().join("fleet-key");
        fs::write(&key, "a secret that only this fleet knows").unwrap();
        let database = Postgres::of_this_process().database();
        let key = key.to_str().unwrap().to_owned();
        let options = vec!["--database-url".into(), database, "--fleet-key-file".into(), key];
        Self { gateway, workers: [Place::new(), Place::new()], options, _redis: None }
    }

    /// A fleet whose processes meet in a Redis.
    fn with_redis() -> Self {
        let redis = Redis::start();
        let mut fleet = Self::new();
        fleet.options.extend(["--redis".into(), redis.url()]);
        Self { _redis: Some(redis), ..fleet }
    }

    async fn gateway(&self) -> Server<'_> {
        let command = [&["gateway", "--listen", "127.0.0.1:0"], &self.options()[..]].concat();
        Server::start_role(&self.gateway, &command).await
    }

    fn worker(&self, which: usize) -> Server<'_> {
        self.worker_with(which, &[])
    }

    fn worker_with(&self, which: usize, more: &[&str]) -> Server<'_> {
        let driver = DriverKind::Process.as_str();
        let command =
            [&["worker", "--listen", "127.0.0.1:0", "--driver", driver], &self.options()[..], more];
        Server::spawn(&self.workers[which], &command.concat())
    }

    /// What `aetherium worker …` prints as JSON, asked of the gateway.
    fn ask(&self, arguments: &[&str]) -> Value {
        let mut asked = self.gateway.aetherium();
        let ran = asked.args(["--json", "worker"]).args(arguments).output().unwrap();
        assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
        serde_json::from_slice(&ran.stdout).unwrap()
    }

    fn options(&self) -> Vec<&str> {
        self.options.iter().map(String::as_str).collect()
    }

    /// The place of the worker that has a VM.
    fn owner(&self, vm: &str) -> usize {
        let has = |place: &Place| place.path().join("vms").join(vm).join("journal.json").exists();
        let owners: Vec<_> = (0..2).filter(|which| has(&self.workers[*which])).collect();
        assert_eq!(owners.len(), 1, "{vm} is with {owners:?}");
        owners[0]
    }
}

async fn until_workers(gateway: &Server<'_>, wanted: impl Fn(&[Value]) -> bool) {
    gateway.until("/workers", HEARD_OF, |it| wanted(it["items"].as_array().unwrap())).await;
}

/// Where a worker says that it listens.
async fn address_of(worker: &Server<'_>) -> String {
    let deadline = Instant::now() + SOON;
    loop {
        let log = worker.log();
        let said =
            log.lines().find_map(|line| line.split_once(" is worker ")?.1.split_once(" at "));
        if let Some((_, address)) = said {
            return address.to_owned();
        }
        assert!(Instant::now() < deadline, "the worker does not start\n{log}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Makes two tests of each case.
macro_rules! with_and_without_redis {
    ($($case:ident)+) => {
        mod looking {
            $(
                #[tokio::test]
                async fn $case() {
                    Box::pin(super::$case(super::Fleet::new())).await;
                }
            )+
        }
        mod with_redis {
            $(
                #[tokio::test]
                async fn $case() {
                    Box::pin(super::$case(super::Fleet::with_redis())).await;
                }
            )+
        }
    };
}

with_and_without_redis! {
    each_workspace_runs_on_the_worker_that_owns_it_and_is_reached_through_the_gateway
    a_killed_worker_comes_back_as_itself_and_goes_on_with_what_waits
}

async fn each_workspace_runs_on_the_worker_that_owns_it_and_is_reached_through_the_gateway(
    fleet: Fleet,
) {
    let gateway = fleet.gateway().await;
    let (one, two) = (fleet.worker(0), fleet.worker(1));
    let active = |it: &Value| it["state"] == "active";
    until_workers(&gateway, |all| all.iter().filter(|it| active(it)).count() == 2).await;

    let mut spaces = Vec::new();
    for name in ["first", "second"] {
        let workspace = gateway.workspace(name).await;
        assert_eq!(gateway.answer(&workspace, &format!("echo {name}")).await, format!("{name}\n"));
        let vm = gateway.get(&workspace).await["vm_id"].as_str().unwrap().to_owned();
        // The next is placed by what the workers say of themselves.
        let vms =
            |all: &[Value]| all.iter().filter_map(|it| it["reserved"]["vms"].as_u64()).sum::<u64>();
        until_workers(&gateway, |all| vms(all) == spaces.len() as u64 + 1).await;
        spaces.push((workspace, vm));
    }
    let owners: Vec<_> = spaces.iter().map(|(_, vm)| fleet.owner(vm)).collect();
    assert_ne!(owners[0], owners[1], "both workspaces are with one worker");

    for (workspace, vm) in &spaces {
        assert_eq!(gateway.answer(workspace, "echo again").await, "again\n");
        assert_eq!(gateway.get(workspace).await["vm_id"], json!(vm));
        // Without the queue, over the network.
        let body = json!({ "argv": ["sh", "-c", "echo direct"] });
        let ran = gateway.post(&format!("/vms/{vm}/execute"), body).await;
        assert_eq!(ran["stdout"], "direct\n", "{ran:#}");
    }
    for worker in [one, two] {
        worker.stop().await;
    }
    gateway.stop().await;
    fleet.workers.iter().for_each(Place::assert_no_vm_is_left);
}

async fn a_killed_worker_comes_back_as_itself_and_goes_on_with_what_waits(fleet: Fleet) {
    let gateway = fleet.gateway().await;
    let worker = fleet.worker(0);
    until_workers(&gateway, |all| all.len() == 1 && all[0]["state"] == "active").await;
    let workspace = gateway.workspace("kept").await;
    assert_eq!(gateway.answer(&workspace, "echo before").await, "before\n");
    let vm = gateway.get(&workspace).await["vm_id"].clone();
    worker.kill();
    let waiting = gateway.prompt(&workspace, "echo after").await;

    let worker = fleet.worker(0);
    assert_eq!(gateway.ended(&waiting).await.1, "after\n");
    assert_eq!(gateway.get(&workspace).await["vm_id"], vm, "the VM was not taken over");
    assert_eq!(gateway.get("/workers").await["items"].as_array().unwrap().len(), 1);
    worker.stop().await;
    gateway.stop().await;
    fleet.workers[0].assert_no_vm_is_left();
}

#[tokio::test]
async fn a_worker_is_cordoned_drained_and_activated_and_workspaces_keep_their_disks() {
    let fleet = Fleet::new();
    let gateway = fleet.gateway().await;
    let worker = fleet.worker_with(0, &["--zone", "a", "--label", "disk=nvme", "--lease", "4s"]);
    until_workers(&gateway, |all| all.first().is_some_and(|it| it["state"] == "active")).await;
    let listed = fleet.ask(&["list"])["items"][0].clone();
    assert_eq!((&listed["zone"], &listed["labels"]), (&json!("a"), &json!({ "disk": "nvme" })));
    assert_eq!(
        listed["allocatable"]["vcpus"].as_u64(),
        listed["capacity"]["vcpus"].as_u64().map(|it| it * 4)
    );
    let own = listed["id"].as_str().unwrap();
    let workspace = gateway.workspace("kept").await;
    assert_eq!(gateway.answer(&workspace, "echo one").await, "one\n");
    let alone = format!("/vms/{}", id(&gateway.post("/vms", json!({})).await));
    gateway.until(&alone, SOON, |vm| vm["state"] == "running").await;

    for _ in 0..2 {
        assert_eq!(fleet.ask(&["cordon", own])["state"], "cordoned");
    }
    let refused = gateway.call(reqwest::Method::POST, "/vms", Some(json!({}))).await;
    assert_eq!((refused.0.as_u16(), &refused.1["code"]), (503, &json!("no_capacity")));
    assert_eq!(gateway.answer(&workspace, "echo two").await, "two\n", "what it has goes on");

    // Nothing runs in the workspace's VM; the other one is not the worker's to end before the deadline.
    let draining = fleet.ask(&["drain", own]);
    assert_eq!((&draining["state"], &draining["reserved"]["vms"]), (&json!("draining"), &json!(2)));
    gateway.until(&format!("/workers/{own}"), SOON, |it| it["reserved"]["vms"] == 1).await;
    assert_eq!(gateway.get(&alone).await["state"], "running");
    let waiting = gateway.prompt(&workspace, "echo three").await;
    assert_eq!(fleet.ask(&["drain", own, "--deadline", "0s", "--wait"])["state"], "drained");
    let ended = gateway.get(&alone).await;
    assert_eq!(
        (&ended["state"], &ended["termination"]["code"]),
        (&json!("stopped"), &json!("drained"))
    );
    assert_eq!(gateway.get(&waiting).await["state"], "queued");

    assert_eq!(fleet.ask(&["activate", own])["state"], "active");
    assert_eq!(gateway.ended(&waiting).await.1, "three\n");
    worker.stop().await;
    let stopped = fleet.ask(&["inspect", own]);
    assert_eq!((&stopped["state"], &stopped["reserved"]["vms"]), (&json!("stopped"), &json!(0)));
    gateway.stop().await;
    fleet.workers[0].assert_no_vm_is_left();
}

#[tokio::test]
async fn a_worker_that_was_stopped_past_its_lease_ends_its_vms_and_begins_anew() {
    let fleet = Fleet::new();
    let gateway = fleet.gateway().await;
    let worker = fleet.worker_with(0, &["--lease", "3s"]);
    until_workers(&gateway, |all| all.first().is_some_and(|it| it["state"] == "active")).await;
    let own = fleet.ask(&["list"])["items"][0]["id"].as_str().unwrap().to_owned();
    let workspace = gateway.workspace("fenced").await;
    let begun = gateway.prompt(&workspace, "echo begun; sleep 600").await;
    let output = format!("{begun}/output?stream=stdout");
    gateway.until(&output, SOON, |it| it.as_str().is_some_and(|it| it.contains("begun"))).await;
    let vm = gateway.get(&workspace).await["vm_id"].as_str().unwrap().to_owned();
    let effects = gateway.place.path().join("effects");
    let line = format!("echo once >> {}", effects.display());
    let waiting = gateway.prompt(&workspace, &line).await;

    worker.signal(rustix::process::Signal::STOP);
    gateway.until(&format!("/workers/{own}"), SOON, |it| it["state"] == "gone").await;
    gateway.until(&begun, SOON, |it| it["state"] == "interrupted").await;
    let lost = gateway.until(&format!("/vms/{vm}"), SOON, |it| it["state"] == "failed").await;
    assert_eq!(lost["termination"]["code"], "worker_lost");
    assert!(gateway.get(&workspace).await["vm_id"].is_null());
    assert_eq!(gateway.get(&waiting).await["state"], "queued");

    worker.signal(rustix::process::Signal::CONT);
    gateway.until(&format!("/workers/{own}"), SOON, |it| it["state"] == "active").await;
    assert_eq!(state(&gateway.ended(&waiting).await.0), "completed");
    assert_eq!(gateway.answer(&workspace, "echo again").await, "again\n");
    assert_eq!(fs::read_to_string(&effects).unwrap(), "once\n");
    assert_eq!(state(&gateway.get(&begun).await), "interrupted", "its end was written twice");
    let old: Vec<_> =
        fleet.workers[0].processes().into_iter().filter(|it| it.starts_with(&vm)).collect();
    assert_eq!(old, Vec::<String>::new(), "the VM of before still runs");
    worker.stop().await;
    gateway.stop().await;
    fleet.workers[0].assert_no_vm_is_left();
}

#[tokio::test]
async fn a_worker_answers_nobody_without_a_pass() {
    let fleet = Fleet::new();
    let gateway = fleet.gateway().await;
    let worker = fleet.worker(0);
    until_workers(&gateway, |all| all.len() == 1).await;
    let address = address_of(&worker).await;
    let asked = |pass: Option<&str>| {
        let request = http().get(format!("http://{address}/internal/v1/health"));
        match pass {
            Some(pass) => request.header("Authorization", format!("Pass {pass}")),
            None => request,
        }
    };
    for pass in [None, Some("1.00"), Some(gateway.key())] {
        let answer = asked(pass).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 401);
        assert_eq!(answer.json::<Value>().await.unwrap()["code"], "unauthorized");
    }
    worker.stop().await;

    // A gateway of another fleet has no pass that is good here.
    fs::write(fleet.gateway.path().join("fleet-key"), "what another fleet knows, not this")
        .unwrap();
    let stranger = fleet.worker(0);
    until_workers(&gateway, |all| all[0]["state"] == "active").await;
    let made = gateway.post("/vms", json!({})).await;
    let path = format!("/vms/{}", id(&made));
    gateway.until(&path, SOON, |vm| vm["state"] == "running").await;
    let body = json!({ "argv": ["true"] });
    let (status, problem) =
        gateway.call(reqwest::Method::POST, &format!("{path}/execute"), Some(body)).await;
    assert_eq!((status.is_success(), &problem["code"]), (false, &json!("unavailable")));
    stranger.stop().await;
    gateway.stop().await;
    fleet.workers[0].assert_no_vm_is_left();
}

#[test]
fn a_role_without_a_database_or_a_key_says_what_it_wants() {
    let place = Place::new();
    for (args, wanted) in [
        (&["gateway"][..], "--fleet-key-file"),
        (&["worker", "--fleet-key-file", "/nowhere"], "/nowhere"),
        (&["worker", "--fleet-key-file", AETHERIUM], AETHERIUM),
    ] {
        let ran = place.aetherium().args(args).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(!ran.status.success() && said.contains(wanted), "{args:?}: {said}");
    }
    let key = place.path().join("fleet-key");
    fs::write(&key, "a secret that only this fleet knows").unwrap();
    let ran = place.aetherium().args(["gateway", "--fleet-key-file"]).arg(&key).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(!ran.status.success() && said.contains("--database"), "{said}");
}
