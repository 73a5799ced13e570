//! A short run against the program that `make assets` has built. `make chaos` makes long ones.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::Path, process::Command};

/// Runs `chaos` with these arguments, and fails if a promise was broken.
fn run(arguments: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let ran = Command::new(env!("CARGO_BIN_EXE_chaos"))
        .current_dir(root)
        .args(arguments)
        .output()
        .unwrap();
    let (said, told) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{arguments:?}: {}\n{told}\n{said}", ran.status);
    said.into_owned()
}

#[test]
fn a_seed_says_what_will_be_broken_and_does_nothing() {
    let plan = || run(&["--plan", "--seed", "7", "--faults", "kill,stop,connections"]);
    assert!(plan().contains("kill -9 worker-"), "{}", plan());
    assert_eq!(plan(), plan());
}

#[test]
fn a_fleet_that_is_broken_for_half_a_minute_keeps_its_promises() {
    let seed = ["--seed", "13", "--seconds", "30", "--lease", "3", "--prompts", "150", "--json"];
    let verdict: serde_json::Value = serde_json::from_str(&run(&seed)).unwrap();
    assert_eq!(verdict["accepted"], 150, "{verdict:#}");
    // It cannot have passed because nothing was broken.
    assert!(verdict["repeated"].as_u64() > Some(0), "no request had to be repeated: {verdict:#}");
    assert!(verdict["vms_seen"].as_u64() > Some(12), "no VM was lost or idle: {verdict:#}");
}

#[test]
fn clocks_redis_and_connections_that_break_cost_no_prompt_its_end() {
    let faults = ["--faults", "skew,redis,connections", "--seed", "3", "--seconds", "30"];
    let rest = ["--lease", "6", "--prompts", "150", "--json"];
    let verdict: serde_json::Value =
        serde_json::from_str(&run(&[&faults[..], &rest].concat())).unwrap();
    assert_eq!(verdict["states"]["completed"], 150, "{verdict:#}");
}
