//! The fake against the real Firecracker: the same calls, the same answers.
//!
//! The real one is `AETHERIUM_FIRECRACKER`, or `firecracker` in `PATH`; what needs a started guest
//! needs `AETHERIUM_TEST_KERNEL_FIRECRACKER`, an ELF kernel, and KVM as well. What is not there is skipped, and
//! said so.

use crate::harness::{Fake, Place};
use http::Method;
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    path::PathBuf,
    process::Stdio,
};
use tokio::process::Command;

type Request = (Method, &'static str, Value);

fn skip(why: &str) {
    // Not by a macro, whose output is shown for failed tests alone.
    let _ = writeln!(std::io::stderr(), "\nSKIPPED against the real Firecracker: {why}");
}

fn real() -> Option<PathBuf> {
    let named = std::env::var_os("AETHERIUM_FIRECRACKER").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("firecracker"));
    let found = named.into_iter().chain(found).find(|program| program.is_file());
    if found.is_none() {
        skip("there is none; set AETHERIUM_FIRECRACKER");
    }
    found
}

fn kernel() -> Option<PathBuf> {
    let kernel = std::env::var_os("AETHERIUM_TEST_KERNEL_FIRECRACKER").map(PathBuf::from)?;
    let mut magic = [0; 4];
    File::open(&kernel).ok()?.read_exact(&mut magic).ok()?;
    (magic == *b"\x7fELF").then_some(kernel)
}

async fn version(program: &PathBuf) -> String {
    let output = Command::new(program).arg("--version").output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().next().unwrap().strip_prefix("Firecracker v").unwrap().to_owned()
}

/// Files whose names mean the same to both.
fn furnish(place: &Place) {
    fs::write(place.path("taken"), "").unwrap();
    fs::write(place.path("no-kernel"), "hello, this is no kernel at all".repeat(100)).unwrap();
}

async fn start_real(place: &Place, program: &PathBuf) -> Fake {
    let mut command = Command::new(program);
    command.current_dir(place.path("")).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    place.run("fc", &[], &mut command, |command| command.spawn().unwrap()).await
}

/// Makes the calls on both and holds the answers against each other.
async fn compare(program: &PathBuf, places: &[Place; 2], calls: Vec<Request>) {
    places.iter().for_each(furnish);
    let settings = json!({ "version": version(program).await, "guest": "hangs" });
    let real = start_real(&places[0], program).await;
    let fake = places[1].fake("fc", &[], settings).await;
    let mut differences = Vec::new();
    for (method, path, body) in calls {
        let body = Some(body).filter(|body| !body.is_null());
        let (real, fake) = (
            real.call(method.clone(), path, body.clone()).await,
            fake.call(method.clone(), path, body.clone()).await,
        );
        if without_places(real.clone()) != without_places(fake.clone()) {
            differences.push(format!("{method} {path} {body:?}\n  real {real:?}\n  fake {fake:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Where in a body an error was found is no part of the contract.
fn without_places((status, mut body): (u16, Value)) -> (u16, Value) {
    if let Some(message) = body["fault_message"].as_str() {
        body["fault_message"] =
            message.split(" at line ").next().unwrap().trim_end_matches('.').into();
    }
    (status, body)
}

fn drive(id: &str, root: bool, path: &str) -> Value {
    json!({"drive_id": id, "is_root_device": root, "is_read_only": true, "path_on_host": path})
}

fn action(name: &str) -> Value {
    json!({ "action_type": name })
}

const GET: Method = Method::GET;
const PUT: Method = Method::PUT;
const PATCH: Method = Method::PATCH;
const NONE: Value = Value::Null;

#[rustfmt::skip]
fn before_the_start() -> Vec<Request> {
    vec![
        (GET, "/", NONE), (GET, "/version", NONE), (GET, "/machine-config", NONE), (GET, "/vm/config", NONE),
        (GET, "/balloon", NONE), (GET, "/balloon/statistics", NONE), (GET, "/nonsense", NONE),
        (PUT, "/nonsense", json!({})), (PATCH, "/nonsense/x", json!({})), (GET, "/", json!({})),
        (PUT, "/boot-source", NONE), (PATCH, "/vm", NONE), (PUT, "/boot-source", json!({})),
        (PUT, "/boot-source", json!({"kernel_image_path": "gone"})),
        (PUT, "/boot-source", json!({"kernel_image_path": "vmlinux", "initrd_path": "gone"})),
        (PUT, "/boot-source", json!({"kernel_image_path": "vmlinux", "x": 1})),
        (PUT, "/drives/root", json!({"drive_id": "root"})),
        (PUT, "/drives/a-b", drive("a-b", false, "disk")),
        (PUT, "/drives/", drive("x", false, "disk")),
        (PUT, "/drives/x", drive("y", false, "disk")),
        (PUT, "/drives/x", json!({"drive_id": "x", "is_root_device": false})),
        (PUT, "/drives/x", drive("x", false, "gone")),
        (PUT, "/drives/data", drive("data", false, "disk")),
        (PUT, "/drives/root", drive("root", true, "disk")),
        (PUT, "/drives/other", drive("other", true, "disk")),
        (PUT, "/machine-config", json!({"vcpu_count": 0, "mem_size_mib": 128})),
        (PUT, "/machine-config", json!({"vcpu_count": 33, "mem_size_mib": 128})),
        (PUT, "/machine-config", json!({"vcpu_count": 1, "mem_size_mib": 0})),
        (PUT, "/machine-config", json!({"vcpu_count": 3, "mem_size_mib": 128, "smt": true})),
        (PUT, "/machine-config", json!({"vcpu_count": 1, "mem_size_mib": 127, "huge_pages": "2M"})),
        (PUT, "/machine-config", json!({"vcpu_count": 1})),
        (PUT, "/machine-config", json!({"vcpu_count": "x", "mem_size_mib": 1})),
        (PATCH, "/machine-config", json!({"mem_size_mib": 256})),
        (PATCH, "/machine-config", json!({})),
        (PUT, "/vsock", json!({"guest_cid": 3, "uds_path": "taken"})),
        (PUT, "/vsock", json!({"guest_cid": 3})),
        (PUT, "/vsock", json!({"guest_cid": 3, "uds_path": "v"})),
        (PUT, "/vsock", json!({"guest_cid": 3, "uds_path": "v"})),
        (PUT, "/logger", json!({"log_path": "/gone/x"})),
        (PUT, "/logger", json!({"level": "Nonsense"})),
        (PUT, "/metrics", json!({"metrics_path": "/gone/x"})),
        (PUT, "/network-interfaces/eth0", json!({"iface_id": "eth0", "host_dev_name": "a-name-too-long-for-it"})),
        (PUT, "/network-interfaces/eth0", json!({"iface_id": "eth0", "host_dev_name": "lo"})),
        (PUT, "/network-interfaces/eth0", json!({"iface_id": "eth0", "host_dev_name": "lo", "guest_mac": "xx"})),
        (PUT, "/balloon", json!({"amount_mib": 100_000, "deflate_on_oom": true})),
        (PUT, "/balloon", json!({"amount_mib": 1, "deflate_on_oom": true})),
        (GET, "/balloon", NONE), (PUT, "/entropy", json!({})), (PUT, "/cpu-config", json!({})),
        (PUT, "/actions", action("Halt")), (PUT, "/actions", action("FlushMetrics")),
        (PUT, "/actions", action("SendCtrlAltDel")),
        (PATCH, "/vm", json!({"state": "Paused"})), (PATCH, "/vm", json!({"state": "Nonsense"})),
        (PATCH, "/drives/root", json!({"drive_id": "root"})), (PATCH, "/balloon", json!({"amount_mib": 1})),
        (PUT, "/snapshot/create", json!({"mem_file_path": "m", "snapshot_path": "s"})),
        (PUT, "/snapshot/nonsense", json!({})), (PUT, "/snapshot", json!({})),
        (PUT, "/snapshot/load", json!({"snapshot_path": "s"})),
        (PUT, "/snapshot/load", json!({"snapshot_path": "s", "mem_file_path": "m", "mem_backend": {"backend_type": "File", "backend_path": "m"}})),
        (PUT, "/snapshot/load", json!({"snapshot_path": "s", "mem_file_path": "m"})),
        (GET, "/vm/config", NONE), (PUT, "/actions", action("InstanceStart")),
    ]
}

#[rustfmt::skip]
fn after_the_start() -> Vec<Request> {
    let snapshot = |memory: &str, state: &str| json!({"mem_file_path": memory, "snapshot_path": state});
    vec![
        (PUT, "/boot-source", json!({"kernel_image_path": "kernel", "boot_args": "console=ttyS0 quiet panic=0"})),
        (PUT, "/drives/root", drive("root", true, "disk")), (PUT, "/vsock", json!({"guest_cid": 3, "uds_path": "v"})),
        (PUT, "/balloon", json!({"amount_mib": 0, "deflate_on_oom": true})),
        (PUT, "/actions", action("InstanceStart")), (GET, "/", NONE), (PUT, "/actions", action("InstanceStart")),
        (PUT, "/boot-source", json!({"kernel_image_path": "kernel"})), (PUT, "/drives/more", drive("more", false, "disk")),
        (PUT, "/vsock", json!({"guest_cid": 3, "uds_path": "w"})), (PUT, "/machine-config", json!({"vcpu_count": 1, "mem_size_mib": 128})),
        (PUT, "/logger", json!({})), (PUT, "/metrics", json!({"metrics_path": "m"})), (PUT, "/entropy", json!({})),
        (PUT, "/snapshot/load", snapshot("m", "s")), (GET, "/balloon", NONE), (GET, "/balloon/statistics", NONE),
        (PATCH, "/balloon/statistics", json!({"stats_polling_interval_s": 1})),
        (PATCH, "/drives/gone", json!({"drive_id": "gone", "path_on_host": "disk"})),
        (PATCH, "/drives/root", json!({"drive_id": "root", "path_on_host": "gone"})),
        (PATCH, "/drives/root", json!({"drive_id": "root", "path_on_host": "disk"})),
        (PATCH, "/network-interfaces/gone", json!({"iface_id": "gone"})),
        (PUT, "/snapshot/create", snapshot("m", "s")), (PATCH, "/vm", json!({"state": "Resumed"})),
        (PATCH, "/vm", json!({"state": "Paused"})), (GET, "/", NONE), (PATCH, "/vm", json!({"state": "Paused"})),
        (PUT, "/snapshot/create", snapshot("/gone/m", "s")), (PUT, "/snapshot/create", snapshot("m", "/gone/s")),
        (PUT, "/snapshot/create", snapshot("m", "s")), (GET, "/vm/config", NONE), (PATCH, "/vm", json!({"state": "Resumed"})),
        (GET, "/", NONE),
    ]
}

/// A command line's exit code, what is printed without the log, and what is said of an error.
async fn told(mut command: Command, args: &[&str]) -> (Option<i32>, String, String) {
    let output = command.args(args).output().await.unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let printed: Vec<&str> = printed.lines().filter(|line| !line.contains(":main] ")).collect();
    (output.status.code(), printed.join("\n"), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn both_understand_the_same_command_lines() {
    let Some(program) = real() else { return };
    let place = Place::new();
    furnish(&place);
    let version = version(&program).await;
    for args in [
        &["--version"][..],
        &["--snapshot-version"],
        &["--nonsense"],
        &["--id", "a", "--id", "b"],
        &["--api-sock"],
        &["--api-sock", "taken"],
        &["--api-sock", "x", "--log-path", "/gone/x"],
        &["--api-sock", "x", "--metrics-path", "/gone/x"],
    ] {
        let mut real = Command::new(&program);
        real.current_dir(place.path("")).stdin(Stdio::null()).kill_on_drop(true);
        let fake = place.program("fc", json!({ "version": version }));
        assert_eq!(told(real, args).await, told(fake, args).await, "{args:?}");
    }
}

#[tokio::test]
async fn before_the_start_both_say_the_same() {
    let Some(program) = real() else { return };
    compare(&program, &[Place::new(), Place::new()], before_the_start()).await;
}

#[tokio::test]
async fn both_refuse_what_is_no_kernel_and_no_snapshot() {
    let Some(program) = real() else { return };
    let no_kernel = vec![
        (PUT, "/actions", action("InstanceStart")),
        (PUT, "/boot-source", json!({"kernel_image_path": "no-kernel"})),
        (PUT, "/actions", action("InstanceStart")),
        (GET, "/", NONE),
    ];
    // A start asks for KVM before it looks at the kernel.
    if File::options().read(true).write(true).open("/dev/kvm").is_ok() {
        compare(&program, &[Place::new(), Place::new()], no_kernel).await;
    } else {
        skip("there is no KVM to start anything with");
    }
    for state in ["gone", "no-kernel"] {
        let load = json!({"snapshot_path": state, "mem_file_path": "m"});
        let calls = vec![(PUT, "/snapshot/load", load)];
        compare(&program, &[Place::new(), Place::new()], calls).await;
    }
}

#[tokio::test]
async fn after_the_start_both_say_the_same() {
    let Some(program) = real() else { return };
    let Some(kernel) = kernel() else {
        return skip("no ELF kernel; set AETHERIUM_TEST_KERNEL_FIRECRACKER");
    };
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return skip("there is no KVM to start anything with");
    }
    let places = [Place::new(), Place::new()];
    for place in &places {
        fs::copy(&kernel, place.path("kernel")).unwrap();
    }
    compare(&program, &places, after_the_start()).await;
}
