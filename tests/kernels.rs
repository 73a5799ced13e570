//! Kernels, from a file to a template that has one by its name.

use crate::world::{AETHERIUM, Place, Server, assets, id, test_template};
use aetherium_model::resources::DriverKind;
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

/// All that is looked at of a kernel: what it says of itself, and how it was configured.
fn write_kernel(dir: &Path, config: &str) {
    fs::write(dir.join("vmlinux"), "\x7fELF Linux version 6.6.6 (gcc)\0").unwrap();
    fs::write(dir.join("settings"), config).unwrap();
}

fn aetherium(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(AETHERIUM);
    command.current_dir(dir).arg("--data-dir").arg(dir.join("data"));
    command.env("AETHERIUM_AGENT", assets().join("fc-agent")).args(args).output().unwrap()
}

fn said(output: &Output) -> (String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout) + &text(&output.stderr), output.status.code())
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{:?}", said(output)))
}

#[test]
fn an_imported_kernel_becomes_a_templates_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_kernel(dir, "CONFIG_PCI=y\nCONFIG_VIRTIO_BLK=m\n");
    let import = ["--json", "kernel", "import", "vmlinux", "--config", "settings", "--name", "lab"];
    let made = json(&aetherium(dir, &import));
    assert_eq!(made["facts"]["release"], "6.6.6");
    let (out, code) = said(&aetherium(dir, &import[1..]));
    assert!(code == Some(1) && out.contains("lab exists already"), "{out}");
    fs::remove_file(dir.join("vmlinux")).unwrap();

    fs::create_dir_all(dir.join("root/bin")).unwrap();
    let build = ["--json", "template", "build", "t", "--kernel", "lab", "--rootfs", "root"];
    let template = json(&aetherium(dir, &build));
    assert_eq!(template["kernel"]["release"], "6.6.6");
    // It came with its configuration.
    assert_eq!(template["kernel"]["config"]["options"]["VIRTIO_BLK"], "module");

    assert!(said(&aetherium(dir, &["kernel", "list"])).0.contains("6.6.6"));
    assert_eq!(said(&aetherium(dir, &["kernel", "remove", "lab"])).1, Some(0));
    let (out, code) = said(&aetherium(dir, &build[1..]));
    assert!(code == Some(1) && out.contains("there is no kernel lab"), "{out}");
}

#[test]
fn what_keeps_a_kernel_from_booting_is_told_for_people_and_programs() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_kernel(dir, "CONFIG_PCI=y\nCONFIG_BLK_DEV_INITRD=y\nCONFIG_EXT4_FS=y\n");
    let (out, code) = said(&aetherium(dir, &["kernel", "inspect", "vmlinux"]));
    assert!(code == Some(0) && out.contains("! kernel.config"), "{out}");
    let named = ["kernel", "inspect", "vmlinux", "--config", "settings"];
    let (out, code) = said(&aetherium(dir, &named));
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("✗ kernel.disk") && out.contains("CONFIG_VIRTIO_BLK is off"), "{out}");
    let told = json(&aetherium(dir, &[&["--json"], &named[..]].concat()));
    assert_eq!((&told["format"], &told["config"]["source"]), (&"elf".into(), &"named".into()));
    let (out, code) = said(&aetherium(dir, &["kernel", "inspect", "/no/such"]));
    assert!(code == Some(1) && out.contains("there is no file /no/such"), "{out}");
}

/// Compiles a kernel: `cargo test -p aetherium --test system -- --ignored lean_kernel`, with the packages
/// that `aetherium kernel build` asks for. What was compiled stays in target/test-assets/kernel-build, so
/// that the next run compiles what has changed since.
#[tokio::test]
#[ignore = "downloads a kernel's source and compiles it: minutes on two idle processors"]
async fn a_lean_kernel_of_the_distributions_source_boots_without_modules_and_sooner() {
    let place = Place::new();
    let run = |args: &[&str]| place.aetherium().args(args).output().unwrap();
    let work = assets().join("kernel-build");
    let built = run(&["--json", "kernel", "build", "lean", "--work", work.to_str().unwrap()]);
    assert!(json(&built)["facts"]["release"].as_str().unwrap().ends_with("-aetherium"));

    let told = json(&run(&["--json", "kernel", "inspect", "lean"]));
    assert_eq!(told["config"]["source"], "image", "{told:#}");
    let checks = told["checks"].as_array().unwrap();
    assert!(checks.iter().all(|check| check["verdict"] == "ok"), "{told:#}");
    let options = told["config"]["options"].as_object().unwrap();
    assert!(options.values().all(|setting| setting == "built_in"), "{told:#}");

    let rootfs = test_template().rootfs();
    let build = ["--json", "template", "build", "lean", "--kernel", "lean", "--rootfs"];
    let template = json(&run(&[&build[..], &[rootfs.to_str().unwrap()]].concat()));
    assert_eq!(template["initramfs"]["modules"], json!([]), "{template:#}");

    let server = Server::start(&place, DriverKind::Qemu).await;
    let (mut lean, mut stock) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        lean.push(boot(&server, "lean", "aetherium").await);
        stock.push(boot(&server, "default", "cloud").await);
    }
    server.stop().await;
    place.assert_no_vm_is_left();
    eprintln!("from the request until the agent answers: lean {lean:?}, distribution {stock:?}");
    assert!(median(lean) < median(stock));
}

/// How long a VM takes until its agent has answered, with a kernel of which this is a part of the name.
async fn boot(server: &Server<'_>, template: &str, release: &str) -> Duration {
    let began = Instant::now();
    let vm = server.vm(json!({ "template": template })).await;
    let took = began.elapsed();
    let path = format!("/vms/{}", id(&vm));
    // Each is a use of what the kernel must have: a writable overlay, and limits for commands.
    let script = "uname -r && touch /mark && grep -q overlay /proc/filesystems && \
                  grep -q memory /sys/fs/cgroup/cgroup.controllers";
    let ran =
        server.post(&format!("{path}/execute"), json!({ "argv": ["sh", "-c", script] })).await;
    assert_eq!(ran["result"]["exit_code"], 0, "{ran:#}");
    assert!(ran["stdout"].as_str().unwrap().contains(release), "{ran:#}");
    server.delete(&path).await;
    took
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
