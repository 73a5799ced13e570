//! `deploy/`: the chart, images, units and their documents, whose tests are Python, as Helm's engine and
//! Kubernetes' schemas come so. They run here so that one command runs all.

use crate::world::{AETHERIUM, assets};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use test_servers::Postgres;

/// Everything that boots nothing; the chart is rendered and judged some hundred times.
const LONG: Duration = Duration::from_secs(300);
/// A release brought up from nothing, emulated on two busy cores.
const LONGER: Duration = Duration::from_secs(540);

/// Runs tests of a Python module in `deploy/tests`, after what is to be put before the interpreter.
fn python(before: &[&str], tests: &[&str], database: Option<&str>, at_most: Duration) {
    let python = assets().join("python/bin/python");
    assert!(python.exists(), "{} is missing: run `make assets` first", python.display());
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let words: Vec<_> = before.iter().map(AsRef::as_ref).chain([python.as_os_str()]).collect();
    let (program, rest) = words.split_first().unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(program);
    command
        .args(rest)
        .args(["-B", "-m", "unittest", "-v"])
        .args(tests)
        .current_dir(root.join("deploy/tests"))
        .env("AETHERIUM_PROGRAM", AETHERIUM)
        .stdin(Stdio::null())
        .stdout(log.reopen().unwrap())
        .stderr(log.reopen().unwrap());
    if let Some(database) = database {
        command.env("AETHERIUM_TEST_DATABASE", database);
    }
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + at_most;
    let ended = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let said = fs::read_to_string(log.path()).unwrap();
    assert!(ended.is_some_and(|it| it.success()), "{tests:?} ended with {ended:?}:\n{said}");
    print!("{said}");
}

#[test]
fn the_chart_renders_as_helm_and_kubernetes_want_it_and_names_only_what_the_program_has() {
    python(&[], &["test_chart", "test_upgrade", "test_docs"], None, LONG);
}

#[test]
fn images_units_and_compose_files_name_what_exists() {
    python(&[], &["test_images"], None, LONG);
}

#[test]
fn the_local_release_comes_up_container_by_container_until_a_prompt_has_run_in_an_emulated_vm() {
    release_comes_up("test_pods.Pods.test_a_prompt_runs_in_an_emulated_vm_of_the_local_release");
}

/// Where the real Firecracker and a kernel for it are named (see `drivers.rs`), else it says `skipped`.
#[test]
fn the_default_release_comes_up_until_a_prompt_has_run_under_firecracker_with_just_its_rights() {
    release_comes_up(
        "test_pods.Pods.test_a_prompt_runs_under_firecracker_with_the_rights_of_the_default_release",
    );
}

fn release_comes_up(test: &str) {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can make containers of pods");
        return;
    }
    let server = Postgres::start();
    let database = server.database();
    // Containers run as users of their own, and reach the server by its socket.
    let address = database.split('@').nth(1).unwrap().split(':').next().unwrap();
    let directory = address.replace("%2F", "/");
    fs::set_permissions(directory, fs::Permissions::from_mode(0o711)).unwrap();
    // The network's namespace, in which pods have the ports that the chart gives them.
    let network = ["unshare", "--net", "--", "sh", "-euc", "ip link set lo up; exec \"$@\"", "sh"];
    python(&network, &[test], Some(&database), LONGER);
}

/// Takes minutes and the network: `cargo test -p aetherium --test system -- --ignored images_are_built`.
/// Needs `buildah`, `mmdebstrap`, and `make build` before.
#[test]
#[ignore = "minutes, and packages from the network"]
fn images_are_built_for_real_from_a_base_made_here() {
    python(&[], &["build_images"], None, Duration::from_secs(1800));
}
