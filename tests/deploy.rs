//! `deploy/`: the chart, images, units and their documents, whose tests are Python, as Helm's engine and
//! Kubernetes' schemas come so. They run here so that one command runs all.

use crate::world::{AETHERIUM, Place, SOON, Server, assets};
use reqwest::StatusCode;
use std::{
    fs, io,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
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
        thread::sleep(Duration::from_millis(100));
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

/// A gateway without state of its own: who may speak is in a file that all of them share.
#[tokio::test]
async fn a_gateway_takes_the_keys_of_a_file_and_refuses_a_file_that_lets_nobody_in() {
    let place = Place::new();
    let file = |name: &str, content: &str| {
        let path = place.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let fleet_key = file("fleet-key", "a secret that only this fleet knows");
    let database = Postgres::of_this_process().database();
    let role = |keys: &str| {
        let fixed = ["gateway", "--listen", "127.0.0.1:0", "--operations-listen", "127.0.0.1:0"];
        let named =
            ["--database", &database, "--fleet-key-file", &fleet_key, "--api-keys-file", keys];
        [&fixed[..], &named].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    for (content, wanted) in [
        ("", "no API key"),
        ("# none\n\n", "no API key"),
        ("# one\nshort", "line 2"),
        ("short", "16 or"),
        ("team/a the-first-of-the-keys", "line 1"),
    ] {
        let keys = file("keys", content);
        let ran = place.aetherium().args(role(&keys)).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(!ran.status.success() && said.contains(wanted), "{content:?}: {said}");
    }
    let keys = file(
        "keys",
        "# two of them\nthe-first-of-the-keys\n\n the-second-of-the-keys \nteam-a the-key-of-team-a\n",
    );
    // The data directory's own key is somebody's who runs a client here, and opens nothing.
    file("api-key", "the-key-of-the-directory");
    let command = role(&keys);
    let command: Vec<_> = command.iter().map(String::as_str).collect();
    let gateway = Server::start_role(&place, &command).await;
    for (key, status) in [
        ("the-first-of-the-keys", StatusCode::OK),
        ("the-second-of-the-keys", StatusCode::OK),
        ("the-key-of-team-a", StatusCode::OK),
        ("the-key-of-the-directory", StatusCode::UNAUTHORIZED),
    ] {
        let asked = crate::world::http().get(format!("{}/api/v1/workers", gateway.url()));
        assert_eq!(asked.bearer_auth(key).send().await.unwrap().status(), status, "{key}");
    }
    let limits = format!("{}/api/v1/projects/team-a/limits", gateway.url());
    let asked = crate::world::http().post(limits).json(&serde_json::json!({ "vms": 1 }));
    let refused = asked.bearer_auth("the-key-of-team-a").send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN, "only keys of `default` set limits");
    gateway.stop().await;
}

#[test]
fn a_migration_waits_for_a_database_that_comes_up_beside_it_and_says_what_it_did() {
    let server = Postgres::of_this_process();
    let url = server.by_loopback(&server.database());
    let (rest, tail) = url.rsplit_once(':').unwrap();
    let (port, name) = tail.split_once('/').unwrap();
    // Nobody listens there yet.
    let later = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let place = Place::new();
    let log = place.path().join("migrate.log");
    let migrate = |wait: &str| {
        let mut command = place.aetherium();
        command
            .args(["migrate", "--json", "--wait", wait, "--database"])
            .arg(format!("{rest}:{}/{name}", later.port()))
            .env("AETHERIUM_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).unwrap());
        command
    };
    let ran = migrate("0s").output().unwrap();
    assert!(!ran.status.success(), "it did not say that nobody listens");

    let waiting = migrate("60s").spawn().unwrap();
    let deadline = Instant::now() + SOON;
    while !fs::read_to_string(&log).unwrap().contains("does not answer yet") {
        assert!(Instant::now() < deadline, "it does not wait");
        thread::sleep(Duration::from_millis(20));
    }
    let listener = TcpListener::bind(later).unwrap();
    let database: u16 = port.parse().unwrap();
    thread::spawn(move || listener.incoming().for_each(|it| forward(it.unwrap(), database)));
    let ran = waiting.wait_with_output().unwrap();
    let said: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert!(ran.status.success() && said["from"] == 0, "{said}");
    let ran = migrate("0s").output().unwrap();
    let again: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!((&again["from"], &again["to"]), (&said["to"], &said["to"]));
}

/// Carries what a client and the database say to each other, until one of them ends.
fn forward(client: TcpStream, database: u16) {
    let server = TcpStream::connect(("127.0.0.1", database)).unwrap();
    let ways = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
    for (mut from, mut to) in ways {
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    }
}

/// Takes minutes and the network: `cargo test -p aetherium --test system -- --ignored images_are_built`.
/// Needs `buildah`, `mmdebstrap`, and `make build` before.
#[test]
#[ignore = "minutes, and packages from the network"]
fn images_are_built_for_real_from_a_base_made_here() {
    python(&[], &["build_images"], None, Duration::from_secs(1800));
}
