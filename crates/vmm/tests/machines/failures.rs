//! What keeps a VMM from starting, and how it is told.

use crate::guest::Host;
use aetherium_model::{Code, Fault, resources::DriverChoice, resources::DriverKind};
use aetherium_vmm::{Boot, Disk, LaunchSpec, Vmm, VmmError, choose};
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

async fn refusal(host: &Host, spec: &LaunchSpec) -> Fault {
    let Err(error) = host.qemu().launch(spec).await else { panic!("it was launched") };
    let fault = Fault::from(error);
    assert!(!fault.remedy.is_empty(), "{fault}");
    assert_eq!(host.marked(), [], "a failed launch left processes");
    fault
}

#[tokio::test]
async fn a_missing_disk_is_named_in_the_vmms_own_words() {
    let host = Host::new();
    let mut spec = host.spec("mute");
    let Boot::Kernel { disks, .. } = &mut spec.boot else { unreachable!() };
    disks.push(Disk { path: "/gone/root.img".into(), read_only: true, serial: "root".to_owned() });
    let fault = refusal(&host, &spec).await;
    assert_eq!(fault.code, Code::VmmStartFailed);
    assert!(fault.evidence.iter().any(|line| line.contains("/gone/root.img")), "{fault:?}");
}

#[tokio::test]
async fn a_missing_kernel_is_named() {
    let host = Host::new();
    let mut spec = host.spec("mute");
    let Boot::Kernel { kernel, .. } = &mut spec.boot else { unreachable!() };
    kernel.image = "/gone/vmlinuz".into();
    let fault = refusal(&host, &spec).await;
    assert!(fault.detail.contains("/gone/vmlinuz"), "{fault}");
}

#[tokio::test]
async fn a_path_that_depends_on_where_the_server_runs_is_refused() {
    let host = Host::new();
    let mut spec = host.spec("mute");
    let Boot::Kernel { disks, .. } = &mut spec.boot else { unreachable!() };
    disks.push(Disk { path: "root.img".into(), read_only: true, serial: "root".to_owned() });
    let fault = refusal(&host, &spec).await;
    assert!(fault.detail.contains("root.img") && fault.detail.contains("absolute"), "{fault}");
}

#[tokio::test]
async fn a_serial_that_could_carry_options_is_refused() {
    let host = Host::new();
    let mut spec = host.spec("mute");
    let Boot::Kernel { disks, .. } = &mut spec.boot else { unreachable!() };
    disks.push(Disk { path: "/x".into(), read_only: true, serial: "a,readonly=off".to_owned() });
    assert!(matches!(host.qemu().launch(&spec).await.err(), Some(VmmError::BadValue { .. })));
}

#[tokio::test]
async fn a_run_directory_too_deep_for_sockets_is_refused_before_anything_starts() {
    let host = Host::new();
    let mut spec = host.spec("mute");
    spec.run_dir = host.path().join("d".repeat(100));
    fs::create_dir(&spec.run_dir).unwrap();
    let fault = refusal(&host, &spec).await;
    assert!(fault.detail.contains("107"), "{fault}");
}

#[tokio::test]
async fn a_driver_whose_program_is_missing_is_not_chosen_and_says_what_to_install() {
    let mut host = Host::new();
    host.config.qemu = Some("/gone/qemu".into());
    for choice in [DriverChoice::Auto, DriverChoice::Only(DriverKind::Qemu)] {
        let Err(fault) = choose(choice, &host.config, None).await else { panic!("chosen") };
        assert_eq!(fault.code, Code::DriverUnavailable);
        assert!(fault.detail.contains("qemu.binary") && fault.remedy.contains("apt"), "{fault}");
    }
}

#[tokio::test]
async fn an_old_qemu_is_refused_by_its_version() {
    let mut host = Host::new();
    host.config.qemu = Some(program(&host, "qemu", "echo QEMU emulator version 6.2.0"));
    let Err(fault) = choose(DriverChoice::Auto, &host.config, None).await else { panic!("chosen") };
    assert!(fault.detail.contains("qemu.version: 6.2"), "{fault}");
}

#[tokio::test]
async fn auto_takes_qemu_and_never_the_process_driver() {
    let mut host = Host::new();
    let chosen = choose(DriverChoice::Auto, &host.config, None).await.unwrap();
    assert_eq!(chosen.vmm.kind(), DriverKind::Qemu);
    host.config.agent = Some(program(&host, "agent", "exec sleep 600"));
    host.config.qemu = Some("/gone/qemu".into());
    assert!(choose(DriverChoice::Auto, &host.config, None).await.is_err());
    let process = DriverChoice::Only(DriverKind::Process);
    assert_eq!(choose(process, &host.config, None).await.unwrap().vmm.kind(), DriverKind::Process);
}

/// A program of the test's own.
pub(crate) fn program(host: &Host, name: &str, script: &str) -> PathBuf {
    let path = host.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
