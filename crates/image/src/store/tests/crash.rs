//! The store under `kill -9`: a child builds, tags, holds and collects without end, and is killed at
//! random moments. After each the store opens, and all that has a name is whole.

use super::*;
use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

const STORE: &str = "AETHERIUM_CRASHING_STORE";
const KILLS: u64 = 50;

/// Not a test by itself: what the child does.
#[test]
#[ignore = "run by the test beside it, in a process of its own"]
fn adds_and_removes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(STORE) else { return };
    let store = TemplateStore::open(dir).unwrap();
    println!("begun");
    let holder = Holder::Vm(VmId::new());
    for round in 0_u64.. {
        put(&store, "t", &format!("{round} {}", "x".repeat(10_000)));
        store.tag(&reference("t"), &name("t"), &name(&format!("v{}", round % 3))).unwrap();
        store.hold(&holder, reference("t:v0")).unwrap();
        put(&store, "other:same", "always the same");
        store.remove(reference("other:same")).unwrap();
        store.collect(usize::from(round % 2 == 0), Removal::Real).unwrap();
        store.release(&holder).unwrap();
    }
}

fn child(dir: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("store::tests::crash::adds_and_removes_until_it_is_killed")
        .env(STORE, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let begun = lines.map_while(Result::ok).any(|line| line.contains("begun"));
    assert!(begun, "the child ended before it began");
    child
}

#[test]
fn killed_at_any_moment_the_store_opens_and_whatever_has_a_name_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut seed = std::process::id().into();
    let mut seen = 0;
    for kill in 0..KILLS {
        let mut child = child(dir.path());
        std::thread::sleep(random(&mut seed));
        child.kill().unwrap();
        child.wait().unwrap();

        let store = TemplateStore::open(dir.path()).unwrap();
        for (name, tag) in store.tags().unwrap() {
            let template = store.get(TemplateRef::tagged(name, tag)).unwrap();
            assert!(is_whole(&template), "kill {kill}: {:?}", template.verify(Check::Full));
            seen += 1;
        }
        for (holder, _) in store.holders().unwrap() {
            assert!(is_whole(&store.held(&holder).unwrap().unwrap()), "kill {kill}");
            store.release(&holder).unwrap();
        }
    }
    assert!(seen > KILLS, "only {seen} templates were looked at: the child got nowhere");

    let store = TemplateStore::open(dir.path()).unwrap();
    real(&store);
    let needed: usize = store.digests().unwrap().len() * 3;
    assert!(blobs(&store) <= needed, "{} files of {needed}", blobs(&store));
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("staging"))
        .collect();
    assert_eq!(left, [""; 0]);
    assert_eq!(fs::read_dir(dir.path().join(".writing")).unwrap().count(), 0);
}

/// Up to 40 ms: some ten rounds of what the child does (xorshift, Marsaglia 2003).
fn random(seed: &mut u64) -> Duration {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    Duration::from_micros(*seed % 40_000)
}
