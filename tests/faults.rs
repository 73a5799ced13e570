//! Fifty VMs at once, each with a fault of its own in the Firecracker under it: at every call that
//! makes a VM, and after. Each ends, or runs, as its fault demands; and then nothing of them is left.
//!
//! The faults are a deck of cards, one VM each: which VM gets which, and what goes on at the same time,
//! is decided by `AETHERIUM_FAULT_SEED`, or by chance where that is not set; the test prints it.
//!
//! As root the VMs have networks and jails, in a network that the test's thread has to itself; the
//! jailer is the fake's own, which confines nothing but leaves what a jailer leaves.

use crate::{
    indicators::leave_the_machines_network,
    world::{Place, Server, assets, id, state},
};
use aetherium_model::resources::DriverKind;
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// The calls that make a VM with a network, in Firecracker's API.
const CALLS: [&str; 9] = [
    "PUT /machine-config",
    "PUT /drives/root",
    "PUT /drives/overlay",
    "PUT /network-interfaces/eth0",
    "PUT /vsock",
    "PUT /entropy",
    "PUT /balloon",
    "PUT /boot-source",
    "PUT /actions InstanceStart",
];
/// How many VMs are made at once.
const VMS: usize = 50;
/// How long a guest may take until its agent answers; ample for a process, and short for a test.
const BOOT_DEADLINE: &str = "12s";
/// The longest that a VM may take to one of its ends: the driver's deadlines for a VMM that does not
/// listen or answer, and the guest's.
const SETTLED: Duration = Duration::from_secs(60);
/// How long the server may take to let go of what an ended VM had.
const LET_GO: Duration = Duration::from_secs(10);

/// What happens to one VM, and where that may lead: `running`, or a reason's code.
struct Card {
    fault: Value,
    leads_to: &'static [&'static str],
}

const RUNS: &[&str] = &["running"];

fn card(fault: Value, leads_to: &'static [&'static str]) -> Card {
    Card { fault, leads_to }
}

/// Every fault at every call once, those of the guest after them, and VMs without any.
fn deck() -> Vec<Card> {
    let at = |at: &str, deed: Value, leads_to| {
        card(json!({ "faults": [{ "at": at, "do": deed }] }), leads_to)
    };
    let mut deck = Vec::new();
    for call in CALLS {
        deck.push(at(call, json!({ "refuse": "no such luck" }), &["vmm_start_failed"]));
        deck.push(at(call, json!("hang"), &["deadline_exceeded"]));
        deck.push(at(call, json!("die"), &["vmm_start_failed"]));
        deck.push(at(call, json!("garbage"), &["vmm_start_failed"]));
    }
    for deed in [json!("hang"), json!("die"), json!({ "exit": 1 })] {
        deck.push(at("start", deed, &["vmm_start_failed"]));
    }
    deck.push(card(json!({ "guest": "panics" }), &["root_not_found", "kernel_panic"]));
    deck.push(card(json!({ "guest": "hangs" }), &["boot_timeout"]));
    // Either may come before the agent was heard on a busy machine.
    deck.push(card(json!({ "guest": "dies" }), &["vmm_killed"]));
    let unheard = json!([{ "at": "PUT /actions SendCtrlAltDel", "do": "hang" }]);
    let freezes = json!({ "guest": "freezes", "faults": unheard });
    deck.push(card(freezes, &["running", "agent_silent"]));
    // Without a network there is no other way to the agent.
    let elsewhere = if is_root() { RUNS } else { &["agent_silent"] };
    deck.push(card(json!({ "vsock": "silent" }), elsewhere));
    deck.push(card(json!({ "vsock": "closed" }), elsewhere));
    while deck.len() < VMS {
        deck.push(card(json!({}), RUNS));
    }
    deck
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A place whose Firecracker is the fake, and whose VMs are dealt what is put into its deck.
struct Table {
    place: Place,
    deck: PathBuf,
    options: Vec<String>,
}

impl Table {
    fn lay() -> Self {
        let place = Place::new();
        let built = assets().join("fake-firecracker");
        // A copy under a short name: jails are named after the file, and sockets are inside them.
        let (program, jailer) = (place.path().join("fc"), place.path().join("jailer"));
        fs::copy(&built, &program).unwrap();
        symlink(&built, &jailer).unwrap();
        let deck = place.path().join("deck");
        fs::create_dir(&deck).unwrap();
        let settings = json!({ "agent": assets().join("fc-agent"), "deck": deck });
        fs::write(place.path().join("fc.json"), settings.to_string()).unwrap();
        let text = |path: &Path| path.display().to_string();
        let confined = if is_root() {
            vec!["--jailer".to_owned(), text(&jailer)]
        } else {
            vec!["--no-jailer".to_owned(), "--no-slots".to_owned()]
        };
        let mut options = vec!["--firecracker".to_owned(), text(&program)];
        options.extend(confined);
        options.extend(["--boot-deadline", BOOT_DEADLINE].map(str::to_owned));
        Self { place, deck, options }
    }

    async fn server(&self) -> Server<'_> {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        let server = Server::start_with(&self.place, DriverKind::Firecracker, &options).await;
        server.without_idle_connections()
    }

    /// Puts the cards down in this order.
    fn put(&self, cards: &[Card]) {
        for (number, card) in cards.iter().enumerate() {
            // Cards are taken as soon as they bear this ending.
            let (draft, whole) = (self.deck.join("draft"), self.deck.join(format!("{number:02}")));
            fs::write(&draft, card.fault.to_string()).unwrap();
            fs::rename(draft, whole.with_extension("json")).unwrap();
        }
    }

    /// What a VM was dealt.
    fn dealt(&self, vm: &Value, cards: &[Card]) -> usize {
        let file = self.deck.join(id(vm).replace('_', "-")).with_extension("dealt");
        let text = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let fault: Value = serde_json::from_slice(&text).unwrap();
        cards.iter().position(|card| card.fault == fault).unwrap()
    }
}

/// Open files of a process by what they are, without those of the database, whose number goes with
/// the load.
fn open_files(pid: u32) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        // One that was closed meanwhile is not open.
        let Ok(target) = fs::read_link(entry.unwrap().path()) else { continue };
        let target = target.display().to_string();
        let kind = target.split_once(":[").map_or(target.as_str(), |(kind, _)| kind);
        if !kind.contains("aetherium.db") {
            *found.entry(kind.to_owned()).or_default() += 1;
        }
    }
    found
}

/// Children of a process, those that have ended and were not waited for included: number, name, state.
fn children(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_task = |task: fs::DirEntry| fs::read_to_string(task.path().join("children"));
    let all: Vec<String> = tasks.filter_map(|task| of_task(task.ok()?).ok()).collect();
    // One that has been reaped meanwhile is none any more.
    let told = |child| fs::read_to_string(format!("/proc/{child}/stat")).ok();
    let each = all.iter().flat_map(|text| text.split_whitespace()).filter_map(told);
    each.map(|stat| stat.split(' ').take(3).collect::<Vec<_>>().join(" ")).collect()
}

/// Looks again and again until there is nothing wrong.
async fn until_nothing(at_most: Duration, wrong: impl Fn() -> Vec<String>) {
    let deadline = Instant::now() + at_most;
    loop {
        let found = wrong();
        if found.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{found:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the VM has ended, or goes on as it should; returns where it stands.
async fn settled(server: &Server<'_>, vm: &Value) -> Value {
    let path = format!("/vms/{}", id(vm));
    server.until(&path, SETTLED, |vm| ["running", "failed", "stopped"].contains(&state(vm))).await
}

/// Where a VM stands: `running`, or the code of what ended it.
fn outcome(vm: &Value) -> &str {
    vm["termination"]["code"].as_str().unwrap_or_else(|| state(vm))
}

#[tokio::test]
async fn fifty_vms_with_a_fault_each_end_with_a_reason_and_leave_nothing() {
    if is_root() {
        leave_the_machines_network();
    }
    let seed = std::env::var("AETHERIUM_FAULT_SEED").ok().and_then(|it| it.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("AETHERIUM_FAULT_SEED={seed}");
    let mut cards = deck();
    assert_eq!(cards.len(), VMS);
    cards.shuffle(&mut StdRng::seed_from_u64(seed));

    let table = Table::lay();
    let server = table.server().await;
    // What is opened once and kept is not what a VM costs.
    let first = server.vm(json!({})).await;
    delete(&server, &first).await;
    // Nor what the parts of the server keep open between each other.
    futures::future::join_all((0..VMS).map(|_| server.get("/templates"))).await;
    until_nothing(LET_GO, || children(server.pid())).await;
    let before = open_files(server.pid());

    table.put(&cards);
    let made = futures::future::join_all((0..VMS).map(|_| server.post("/vms", json!({})))).await;
    let settled = made.iter().map(|vm| settled(&server, vm));
    let settled: Vec<Value> = futures::future::join_all(settled).await;
    let mut wrong = Vec::new();
    for vm in &settled {
        let card = &cards[table.dealt(vm, &cards)];
        // One that dies after its boot may just have been seen running.
        let expected = match card.leads_to {
            ["vmm_killed"] => {
                let path = format!("/vms/{}", id(vm));
                let ended = server.until(&path, SETTLED, |vm| state(vm) == "failed").await;
                outcome(&ended) == "vmm_killed"
            }
            codes => codes.contains(&outcome(vm)),
        };
        let reason = &vm["termination"];
        let said =
            ["detail", "remedy"].map(|it| reason[it].as_str().is_some_and(|it| !it.is_empty()));
        if !expected || (state(vm) != "running" && said != [true, true]) {
            wrong.push(format!("{} led to {} {reason:#}", card.fault, state(vm)));
        }
    }
    assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}\n{}", server.log());

    let running = settled.iter().filter(|vm| state(vm) == "running");
    futures::future::join_all(running.map(|vm| delete(&server, vm))).await;

    table.place.assert_no_vm_is_left_but_the_server();
    until_nothing(LET_GO, || children(server.pid())).await;
    let more = |(kind, count): (String, usize)| {
        let had = before.get(&kind).copied().unwrap_or_default();
        (count > had).then(|| format!("{count} of {kind}, and {had} before"))
    };
    until_nothing(LET_GO, || open_files(server.pid()).into_iter().filter_map(more).collect()).await;
    assert_eq!(table.place.slots(), Vec::<String>::new(), "slots are left");
    server.stop().await;
    table.place.assert_no_vm_is_left();
    if is_root() {
        // This thread's own network: what is in it, the test's VMs have left.
        assert_eq!(links(), ["lo"]);
        assert_eq!(rules(), "");
    }
}

/// Ends a VM and waits until nothing of it is left.
async fn delete(server: &Server<'_>, vm: &Value) {
    let path = format!("/vms/{}", id(vm));
    let (status, answer) = server.call(Method::DELETE, &path, None).await;
    assert!(status.is_success(), "{path}: {status} {answer:#}");
    server.until(&path, SETTLED, |vm| ["stopped", "failed"].contains(&state(vm))).await;
}

/// The interfaces of this thread's network.
fn links() -> Vec<String> {
    let names = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = names.lines().filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

/// The firewall of this thread's network.
fn rules() -> String {
    let listed = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    assert!(listed.status.success(), "{listed:?}");
    String::from_utf8(listed.stdout).unwrap()
}
