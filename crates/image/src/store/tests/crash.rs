//! The store under `kill -9`: a child builds, tags, holds and collects, and is killed, at random moments
//! and between any two changes of the disk. Each time the store opens, and all that has a name is whole.

use super::*;
use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

const STORE: &str = "AETHERIUM_CRASHING_STORE";
const ROUNDS: &str = "AETHERIUM_CRASHING_ROUNDS";
const DIE_AT: &str = "AETHERIUM_CRASHING_AT";
const KILLS: u64 = 50;
/// The child says so after each thing it has done.
const DONE: &str = "done:";

/// Not a test by itself: what the child does.
#[test]
#[ignore = "run by the tests beside it, in a process of its own"]
fn adds_and_removes() {
    let Some(dir) = std::env::var_os(STORE) else { return };
    let rounds: u64 = std::env::var(ROUNDS).unwrap().parse().unwrap();
    let store = TemplateStore::open(dir).unwrap();
    let holder = Holder::Vm(VmId::new());
    let done = |what| println!("{DONE} {what}");
    for round in 0..rounds {
        put(&store, "t", &format!("{round} {}", "x".repeat(10_000)));
        done("put");
        store.tag(&reference("t"), &name("t"), &name(&format!("v{}", round % 3))).unwrap();
        done("tag");
        store.hold(&holder, reference("t:v0")).unwrap();
        done("hold");
        put(&store, "other:same", "always the same");
        store.remove(reference("other:same")).unwrap();
        done("remove");
        store.collect(keep(usize::from(round % 2 == 0)), Removal::Real).unwrap();
        done("collect");
        store.release(&holder).unwrap();
        done("release");
    }
}

/// Ends the process as `kill -9` does, if this is the moment at which it shall die.
pub(in crate::store) fn die_if_wanted() {
    static MOMENTS: AtomicU64 = AtomicU64::new(0);
    let Ok(wanted) = std::env::var(DIE_AT) else { return };
    if MOMENTS.fetch_add(1, Ordering::SeqCst) == wanted.parse::<u64>().unwrap() {
        let this = rustix::process::getpid();
        rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
    }
}

fn child(dir: &Path, rounds: u64) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("store::tests::crash::adds_and_removes")
        .env(STORE, dir)
        .env(ROUNDS, rounds.to_string())
        .stdout(Stdio::piped());
    child
}

/// Opens the store and sees that all that has a name or a holder is whole; how many there are.
fn all_whole(dir: &Path, when: &str) -> u64 {
    let store = TemplateStore::open(dir).unwrap();
    let mut seen = 0;
    for (name, tag) in store.tags().unwrap() {
        let template = store.get(TemplateRef::tagged(name, tag)).unwrap();
        assert!(is_whole(&template), "{when}: {:?}", template.verify(Check::Full));
        seen += 1;
    }
    for (holder, _) in store.holders().unwrap() {
        assert!(is_whole(&store.held(&holder).unwrap().unwrap()), "{when}");
        store.release(&holder).unwrap();
    }
    seen
}

/// Sees that a collection leaves nothing behind that no template has.
fn nothing_is_left(dir: &Path) {
    let store = TemplateStore::open(dir).unwrap();
    real(&store);
    let needed: usize = store.digests().unwrap().len() * 3;
    assert!(blobs(&store) <= needed, "{} files of {needed}", blobs(&store));
    let left: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("staging"))
        .collect();
    assert_eq!(left, [""; 0]);
    assert_eq!(fs::read_dir(dir.join(".writing")).unwrap().count(), 0);
}

#[test]
fn killed_at_random_moments_the_store_opens_and_whatever_has_a_name_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut seed = std::process::id().into();
    let mut seen = 0;
    for kill in 0..KILLS {
        let mut child = child(dir.path(), u64::MAX).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut done = lines.map_while(Result::ok).filter(|line| line.contains(DONE));
        // After so many things that it did, and within the next.
        let things = usize::try_from(random(&mut seed) % 6).unwrap();
        assert_eq!(done.by_ref().take(things).count(), things, "the child ended by itself");
        std::thread::sleep(Duration::from_micros(random(&mut seed) % 10_000));
        child.kill().unwrap();
        child.wait().unwrap();
        seen += all_whole(dir.path(), &format!("kill {kill}"));
    }
    assert!(seen > KILLS, "only {seen} templates were looked at");
    nothing_is_left(dir.path());
}

#[test]
fn killed_between_any_two_changes_of_the_disk_the_next_run_finishes() {
    let dir = tempfile::tempdir().unwrap();
    let mut moments = 0;
    loop {
        let ended = child(dir.path(), 1).env(DIE_AT, moments.to_string()).output().unwrap();
        all_whole(dir.path(), &format!("moment {moments}"));
        if ended.status.success() {
            break;
        }
        assert_eq!(ended.status.signal(), Some(9), "moment {moments}: {ended:?}");
        moments += 1;
    }
    assert!(moments > 20, "there are only {moments} moments");
    nothing_is_left(dir.path());
}

/// The next of a sequence that looks random (xorshift, Marsaglia 2003).
fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}
