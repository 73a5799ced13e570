//! Kernels, from a file to a template that has one by its name.

use crate::world::{AETHERIUM, assets};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Command, Output},
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
