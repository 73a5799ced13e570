//! Workers that are killed between any two steps.

use crate::host::on_a_host;
use aetherium_model::{VmId, resources::NetworkMode::Egress};
use aetherium_net::{Prefix, Slots, SlotsConfig};
use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Where the worker that is to be killed finds the host's places.
const PLACES: &str = "AETHERIUM_TEST_SLOTS_IN";
const KILLS: u32 = 40;

fn config(dir: &Path) -> SlotsConfig {
    let prefix: Prefix = "aet".parse().unwrap();
    SlotsConfig {
        resolvers: Vec::new(),
        netns_dir: dir.join("netns"),
        claims_dir: dir.join("claims"),
        ..SlotsConfig::new(prefix)
    }
}

#[test]
#[ignore = "the worker that another test starts and kills"]
fn a_worker_acquires_and_releases_until_it_is_killed() {
    let Some(dir) = std::env::var_os(PLACES).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let slots = Slots::new(config(&dir)).await.unwrap();
        loop {
            let began = Instant::now();
            let slot = slots.acquire(VmId::new(), Egress).await.unwrap();
            slots.release(&slot).await.unwrap();
            println!("cycle of {} us", began.elapsed().as_micros());
        }
    });
}

/// Starts a worker in the calling thread's namespaces and kills it some time into its second cycle.
fn kill_a_worker(dir: &Path, fraction: f64) {
    let mut worker = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crashes::a_worker_acquires_and_releases_until_it_is_killed"])
        .args(["--ignored", "--nocapture"])
        .env(PLACES, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Open until the worker is dead: it must not end by a broken pipe.
    let mut lines = BufReader::new(worker.stdout.take().unwrap()).lines();
    let cycle = lines
        .by_ref()
        .map(Result::unwrap)
        .find_map(|line| line.split("cycle of ").nth(1)?.strip_suffix(" us")?.parse::<u64>().ok())
        .expect("the worker ended without a cycle");
    // Not a wait for anything: the moment of the kill is what is tried.
    std::thread::sleep(Duration::from_micros(cycle).mul_f64(fraction));
    worker.kill().unwrap();
    worker.wait().unwrap();
}

#[test]
fn whatever_a_killed_worker_leaves_is_found_and_released() {
    on_a_host(async |host| {
        let slots = Slots::new(config(&host.dir)).await.unwrap();
        let known = slots.acquire(VmId::new(), Egress).await.unwrap();
        let mut kinds = std::collections::BTreeSet::new();
        let clean = host.traces();
        for kill in 0..KILLS {
            kill_a_worker(&host.dir, f64::from(kill) / f64::from(KILLS));
            let left = host.traces().len() - clean.len();
            kinds.insert(left);
            let orphans = slots.orphans(std::slice::from_ref(&known)).await.unwrap();
            assert_eq!(orphans.is_empty(), left == 0, "{left} traces, {orphans:?}");
            for orphan in &orphans {
                assert_ne!(orphan.number, known.number);
                slots.release_orphan(orphan).await.unwrap();
            }
            assert_eq!(host.traces(), clean, "after the kill number {kill}");
        }
        // Else no kill fell between two steps, and nothing was shown.
        assert!(kinds.len() > 2, "the kills left {kinds:?} traces");
        slots.release(&known).await.unwrap();
        assert!(host.traces().is_empty());
    });
}
