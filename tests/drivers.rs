//! One suite for every driver: what a VM does is the same, whatever runs it.
//!
//! The real Firecracker takes part where `AETHERIUM_FIRECRACKER` names it, or `firecracker` is in
//! `PATH`, and `AETHERIUM_TEST_KERNEL_FIRECRACKER` names a kernel that boots under it here; `.ci/run`
//! sets both where it finds them. Beside the kernel a `cpu-template.json` is used, if there is one,
//! and `AETHERIUM_TEST_KERNEL_FIRECRACKER_ARGS` are given to the kernel. Where something of that is
//! missing the run is skipped, and says so.

use crate::{
    hibernation::a_hibernated_workspace_goes_on_or_says_why_not,
    snapshots::{
        a_chain_of_diffs_is_restored_as_one, a_large_diff_is_refused_where_it_may_be_corrupt,
        a_restored_vm_goes_on_where_its_snapshot_was_taken,
        a_workspaces_vm_is_snapshotted_paused_and_for_its_workspace,
        diffs_are_refused_before_anything_starts,
    },
    tuning::what_a_vm_takes_is_changed_and_counted_while_it_runs,
    world::{BOOT, Place, SOON, Server, assets, id, state, test_template},
};
use aetherium_model::{Name, resources::DriverKind};
use aetherium_vmm::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// A driver under test, with a place of its own.
pub(crate) struct Subject {
    pub(crate) place: Place,
    pub(crate) driver: DriverKind,
    options: Vec<String>,
    /// What every VM here is asked to be.
    pub(crate) vm: Value,
    /// Whether its guests have a kernel of their own.
    pub(crate) has_kernel: bool,
    pauses: bool,
    pub(crate) snapshots: bool,
}

impl Subject {
    fn process() -> Option<Self> {
        let (pauses, has_kernel) = (false, false);
        Some(Self { pauses, has_kernel, ..Self::of(DriverKind::Process, Place::new(), &[]) })
    }

    fn qemu() -> Option<Self> {
        Some(Self { snapshots: true, ..Self::of(DriverKind::Qemu, Place::new(), &[]) })
    }

    /// The stand-in, which speaks Firecracker's API and runs the agent as a process.
    fn fake() -> Option<Self> {
        Self::fake_version("1.16.1")
    }

    fn fake_1_14() -> Option<Self> {
        Self::fake_version("1.14.2")
    }

    fn fake_version(version: &str) -> Option<Self> {
        let place = Place::new();
        let built = assets().join("fake-firecracker");
        assert!(built.is_file(), "{} is missing: run `make assets`", built.display());
        let program = place.path().join("firecracker");
        symlink(built, &program).unwrap();
        let settings = json!({ "agent": assets().join("fc-agent"), "version": version });
        fs::write(place.path().join("firecracker.json"), settings.to_string()).unwrap();
        let program = program.display().to_string();
        let options = ["--firecracker", &program, "--no-jailer", "--no-slots"];
        let subject = Self::of(DriverKind::Firecracker, place, &options);
        Some(Self { has_kernel: false, snapshots: true, ..subject })
    }

    fn pci() -> Option<Self> {
        Self::real("pci", &[])
    }

    fn mmio() -> Option<Self> {
        Self::real("mmio", &[])
    }

    fn pci_without_jailer() -> Option<Self> {
        Self::real("pci", &["--no-jailer"])
    }

    fn real(transport: &str, more: &[&str]) -> Option<Self> {
        // The machine's own interfaces are nothing for a test to touch.
        Self::real_with_network(transport, &[&["--no-slots"], more].concat())
    }

    /// The real Firecracker with networks, for a test that has left the machine's own.
    pub(crate) fn real_with_network(transport: &str, more: &[&str]) -> Option<Self> {
        let (program, kernel) = real_firecracker()?;
        let place = Place::new();
        real_template(&place, &kernel);
        let program = program.display().to_string();
        let mut options = vec!["--firecracker", &program];
        options.extend(more);
        let subject = Self::of(DriverKind::Firecracker, place, &options);
        let vm = json!({ "template": "lab", "transport": transport });
        Some(Self { vm, snapshots: true, ..subject })
    }

    fn of(driver: DriverKind, place: Place, options: &[&str]) -> Self {
        let options = options.iter().map(|it| (*it).to_owned()).collect();
        let (vm, has_kernel, pauses, snapshots) = (json!({}), true, true, false);
        Self { place, driver, options, vm, has_kernel, pauses, snapshots }
    }

    /// What the program is told of the driver.
    pub(crate) fn options(&self) -> &[String] {
        &self.options
    }

    pub(crate) async fn server(&self) -> Server<'_> {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        Server::start_with(&self.place, self.driver, &options).await
    }

    pub(crate) fn vm_but(&self, change: Value) -> Value {
        let mut vm = self.vm.clone();
        vm.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        vm
    }
}

/// The real Firecracker and a kernel for it; what is missing is said aloud.
fn real_firecracker() -> Option<(PathBuf, PathBuf)> {
    let on_path = || {
        let path = env::var_os("PATH")?;
        env::split_paths(&path).map(|dir| dir.join("firecracker")).find(|it| it.is_file())
    };
    let program = env::var_os("AETHERIUM_FIRECRACKER").map(PathBuf::from).or_else(on_path);
    let kernel = env::var_os("AETHERIUM_TEST_KERNEL_FIRECRACKER").map(PathBuf::from);
    match (program, kernel) {
        (Some(program), Some(kernel)) => Some((program, kernel)),
        (program, kernel) => {
            eprintln!(
                "SKIPPED, nothing was tested: the real Firecracker takes no part, as \
                 AETHERIUM_FIRECRACKER or PATH gives {program:?} and \
                 AETHERIUM_TEST_KERNEL_FIRECRACKER gives {kernel:?}"
            );
            None
        }
    }
}

/// A template `lab` of the test template's root file system and the given kernel.
fn real_template(place: &Place, kernel: &Path) {
    let mut build = place.aetherium();
    build.args(["template", "build", "lab", "--memory-mib", "256", "--kernel"]).arg(kernel);
    build.arg("--rootfs").arg(test_template().rootfs());
    let cpu = kernel.with_file_name("cpu-template.json");
    if cpu.is_file() {
        build.arg("--cpu-template").arg(cpu);
    }
    let args = env::var("AETHERIUM_TEST_KERNEL_FIRECRACKER_ARGS").unwrap_or_default();
    for arg in args.split_whitespace() {
        build.args(["--kernel-arg", arg]);
    }
    let built = build.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

pub(crate) async fn execute(server: &Server<'_>, vm: &Value, script: &str) -> Value {
    let body = json!({ "argv": ["sh", "-c", script] });
    server.post(&format!("/vms/{}/execute", id(vm)), body).await
}

async fn commands_run_and_the_console_is_kept(subject: &Subject) {
    let server = subject.server().await;
    let vm = server.vm(subject.vm.clone()).await;
    assert_eq!(vm["driver"], subject.driver.as_str(), "{vm:#}");
    if let Some(transport) = subject.vm.get("transport") {
        assert_eq!(vm["virtio_transport"], *transport, "{vm:#}");
        assert_eq!(vm["agent_transport"], "vsock", "{vm:#}");
    }
    let ran = execute(&server, &vm, "echo out; echo err >&2; exit 7").await;
    assert_eq!((&ran["stdout"], &ran["stderr"]), (&json!("out\n"), &json!("err\n")), "{ran:#}");
    assert_eq!(ran["result"]["exit_code"], 7, "{ran:#}");
    if subject.has_kernel {
        let console = server.get(&format!("/vms/{}/console", id(&vm))).await;
        assert!(console.as_str().unwrap().contains("stage=listening"), "{console}");
    }
    server.stop().await;
    subject.place.assert_no_vm_is_left();
}

async fn a_paused_vm_stands_still_until_it_is_resumed(subject: &Subject) {
    let server = subject.server().await;
    let vm = server.vm(subject.vm.clone()).await;
    let path = format!("/vms/{}", id(&vm));
    if !subject.pauses {
        let (status, problem) = server.call(Method::POST, &format!("{path}/pause"), None).await;
        assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("conflict")));
        execute(&server, &vm, "true").await;
        server.stop().await;
        return;
    }
    let before = execute(&server, &vm, "echo kept > /tmp/mark; cat /proc/uptime").await;
    let paused = server.post(&format!("{path}/pause"), json!({})).await;
    assert_eq!(state(&paused), "paused");
    let again = server.post(&format!("{path}/pause"), json!({})).await;
    assert_eq!(state(&again), "paused", "asked again, it changes nothing");
    let body = json!({ "argv": ["true"] });
    let (status, problem) = server.call(Method::POST, &format!("{path}/execute"), Some(body)).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem:#}");
    assert!(problem.to_string().contains("paused"), "{problem:#}");

    let resumed = server.post(&format!("{path}/resume"), json!({})).await;
    assert_eq!(state(&resumed), "running");
    let after = execute(&server, &vm, "cat /tmp/mark").await;
    assert_eq!(after["stdout"], "kept\n", "{after:#}, before {before:#}");
    server.stop().await;
    subject.place.assert_no_vm_is_left();
}

async fn a_vm_whose_vmm_is_killed_ends_with_that_reason(subject: &Subject) {
    let server = subject.server().await;
    let vm = server.vm(subject.vm.clone()).await;
    let strays = aetherium_vmm::strays(&subject.place.path().join("vms")).unwrap();
    let processes = strays.iter().flat_map(|it| &it.processes);
    let vmm = processes.into_iter().find(|it| it.role != Role::VsockHelper).expect("it runs");
    let pid = rustix::process::Pid::from_raw(vmm.pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let path = format!("/vms/{}", id(&vm));
    let ended = server.until(&path, SOON, |vm| vm.get("termination").is_some()).await;
    let ended = match state(&ended) {
        "failed" => ended,
        _ => server.until(&path, SOON, |vm| state(vm) == "failed").await,
    };
    assert_eq!(ended["termination"]["code"], "vmm_killed", "{ended:#}");
    subject.place.assert_no_vm_is_left_but_the_server();
    server.stop().await;
}

async fn several_are_made_at_once(subject: &Subject) {
    let server = subject.server().await;
    let made = futures::future::join_all((0..3).map(|_| server.vm(subject.vm.clone()))).await;
    let ran = futures::future::join_all(made.iter().map(|vm| execute(&server, vm, "echo here")));
    assert!(ran.await.iter().all(|ran| ran["stdout"] == "here\n"));
    server.stop().await;
    subject.place.assert_no_vm_is_left();
}

async fn a_server_that_was_killed_takes_its_vms_over(subject: &Subject) {
    let server = subject.server().await;
    let (running, paused) =
        tokio::join!(server.vm(subject.vm.clone()), server.vm(subject.vm.clone()));
    if subject.pauses {
        server.post(&format!("/vms/{}/pause", id(&paused)), json!({})).await;
    }
    execute(&server, &running, "echo kept > /tmp/mark").await;
    server.kill();

    let server = subject.server().await;
    let path = format!("/vms/{}", id(&running));
    server.until(&path, SOON, |vm| state(vm) == "running").await;
    assert_eq!(execute(&server, &running, "cat /tmp/mark").await["stdout"], "kept\n");
    if subject.pauses {
        let path = format!("/vms/{}", id(&paused));
        assert_eq!(state(&server.get(&path).await), "paused");
        server.post(&format!("{path}/resume"), json!({})).await;
        execute(&server, &paused, "true").await;
    }
    server.stop().await;
    subject.place.assert_no_vm_is_left();
}

async fn what_cannot_boot_ends_with_the_reason(subject: &Subject) {
    if !subject.has_kernel {
        return;
    }
    let base = subject.vm.get("template").and_then(Value::as_str).unwrap_or("default");
    let base = subject.place.templates().get(&base.parse::<Name>().unwrap()).unwrap();
    subject.place.template_like(&base, "rootless", |manifest| {
        manifest["rootfs"]["uuid"] = json!("00000000-0000-4000-8000-000000000000");
    });
    let no_kernel = vec![0x90; 4096];
    let sha256 = subject.place.blob(&no_kernel);
    subject.place.template_like(&base, "kernelless", |manifest| {
        manifest["kernel"]["size"] = json!(no_kernel.len());
        manifest["kernel"].as_object_mut().unwrap().remove("elf");
        manifest["kernel"]["sha256"] = json!(sha256);
    });
    let server = subject.server().await;
    let failed = async |template: &str| {
        let made = server.post("/vms", subject.vm_but(json!({ "template": template }))).await;
        let path = format!("/vms/{}", id(&made));
        server.until(&path, BOOT, |vm| state(vm) == "failed").await["termination"].clone()
    };
    let rootless = failed("rootless").await;
    assert_eq!(rootless["code"], "root_not_found", "{rootless:#}");
    let kernelless = failed("kernelless").await;
    let code = kernelless["code"].as_str().unwrap();
    let known = ["vmm_start_failed", "driver_unavailable", "cannot_boot"];
    assert!(known.contains(&code), "{kernelless:#}");
    assert!(!kernelless["remedy"].as_str().unwrap_or_default().is_empty(), "{kernelless:#}");
    server.stop().await;
    subject.place.assert_no_vm_is_left();
}

macro_rules! suite {
    ($($subject:ident: $($case:ident)+;)+) => {$(
        mod $subject {
            use super::Subject;
            $(
                #[tokio::test]
                async fn $case() {
                    let Some(subject) = Subject::$subject() else { return };
                    super::$case(&subject).await;
                }
            )+
        }
    )+};
}

suite! {
    process:
        commands_run_and_the_console_is_kept
        a_paused_vm_stands_still_until_it_is_resumed
        a_restored_vm_goes_on_where_its_snapshot_was_taken
        a_vm_whose_vmm_is_killed_ends_with_that_reason
        what_a_vm_takes_is_changed_and_counted_while_it_runs
        several_are_made_at_once
        a_server_that_was_killed_takes_its_vms_over;
    qemu:
        what_a_vm_takes_is_changed_and_counted_while_it_runs
        commands_run_and_the_console_is_kept
        a_paused_vm_stands_still_until_it_is_resumed
        a_restored_vm_goes_on_where_its_snapshot_was_taken
        diffs_are_refused_before_anything_starts
        a_vm_whose_vmm_is_killed_ends_with_that_reason
        what_cannot_boot_ends_with_the_reason
        a_server_that_was_killed_takes_its_vms_over;
    fake:
        commands_run_and_the_console_is_kept
        a_paused_vm_stands_still_until_it_is_resumed
        a_restored_vm_goes_on_where_its_snapshot_was_taken
        a_chain_of_diffs_is_restored_as_one
        a_workspaces_vm_is_snapshotted_paused_and_for_its_workspace
        a_hibernated_workspace_goes_on_or_says_why_not
        a_vm_whose_vmm_is_killed_ends_with_that_reason
        what_a_vm_takes_is_changed_and_counted_while_it_runs
        several_are_made_at_once
        a_server_that_was_killed_takes_its_vms_over;
    fake_1_14:
        a_large_diff_is_refused_where_it_may_be_corrupt;
    pci:
        what_a_vm_takes_is_changed_and_counted_while_it_runs
        commands_run_and_the_console_is_kept
        a_paused_vm_stands_still_until_it_is_resumed
        a_restored_vm_goes_on_where_its_snapshot_was_taken
        a_hibernated_workspace_goes_on_or_says_why_not
        a_chain_of_diffs_is_restored_as_one
        a_vm_whose_vmm_is_killed_ends_with_that_reason
        what_cannot_boot_ends_with_the_reason
        several_are_made_at_once
        a_server_that_was_killed_takes_its_vms_over;
    mmio:
        commands_run_and_the_console_is_kept
        a_paused_vm_stands_still_until_it_is_resumed
        a_restored_vm_goes_on_where_its_snapshot_was_taken
        a_chain_of_diffs_is_restored_as_one
        a_vm_whose_vmm_is_killed_ends_with_that_reason
        several_are_made_at_once
        a_server_that_was_killed_takes_its_vms_over;
    pci_without_jailer:
        commands_run_and_the_console_is_kept
        a_restored_vm_goes_on_where_its_snapshot_was_taken
        a_server_that_was_killed_takes_its_vms_over;
}
