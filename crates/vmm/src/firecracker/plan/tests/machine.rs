//! Kernel, root, CPUs, jail: what makes the machine.

use super::*;
use aetherium_model::template::{CpuModifiers, CpuTemplate, NamedCpuTemplate};
use std::path::Path;

#[test]
fn a_bzimage_is_taken_unpacked_or_by_a_version_that_can() {
    let image = |elf: Option<&str>| TemplateFacts {
        kernel: KernelFiles {
            image: "/t/bz".into(),
            format: KernelFormat::BzImage,
            elf: elf.map(Into::into),
        },
        ..template(initramfs(&[]))
    };
    let loaded = |version: &str, elf| {
        planned(version, &kernel_but(&[]), &image(elf), &request()).map(|plan| {
            plan.files.iter().find(|it| it.vmm == Path::new("kernel")).unwrap().host.clone()
        })
    };
    assert_eq!(loaded("1.16.1", Some("/t/elf")).unwrap(), PathBuf::from("/t/elf"));
    assert_eq!(loaded("1.17.0", Some("/t/elf")).unwrap(), PathBuf::from("/t/elf"));
    assert_eq!(loaded("1.17.0", None).unwrap(), PathBuf::from("/t/bz"));
    let error = loaded("1.16.1", None).unwrap_err();
    assert!(matches!(error, PlanError::BzImage { .. }), "{error}");
}

#[test]
fn without_an_initramfs_the_first_disk_is_the_root_and_firecracker_names_it() {
    let bare = template(Start::Disk { init: Some("/usr/bin/agent".to_owned()) });
    let plan = planned("1.16.1", &kernel_but(&[]), &bare, &request()).unwrap();
    assert_eq!(body(&plan, "/drives/root")["is_root_device"], true);
    assert_eq!(body(&plan, "/drives/overlay")["is_root_device"], false);
    assert_eq!(plan.appended_args, ["root=/dev/vda", "ro"]);
    assert!(
        plan.kernel_args.contains("init=/usr/bin/agent") && !plan.kernel_args.contains("root=")
    );
    assert!(body(&plan, "/boot-source").get("initrd_path").is_none());
    let rootless = PlanRequest { disks: Vec::new(), ..request() };
    let error = planned("1.16.1", &kernel_but(&[]), &bare, &rootless).unwrap_err();
    assert_eq!(error, PlanError::NoRoot);
}

#[test]
fn calls_are_those_that_the_version_knows() {
    let request = PlanRequest {
        network: Some(network()),
        balloon: Some(BalloonRequest { amount_mib: 64, deflate_on_oom: true, stats_interval_s: 1 }),
        ..request()
    };
    let new = accepted("1.16.1", &kernel_but(&[]), &request);
    let expected = [
        "/machine-config",
        "/drives/root",
        "/drives/overlay",
        "/network-interfaces/eth0",
        "/vsock",
        "/entropy",
        "/balloon",
        "/boot-source",
    ];
    assert_eq!(paths(&new), expected);
    let old = accepted("1.13.1", &kernel_but(&[]), &request);
    assert_eq!(paths(&old), expected);
    let machine = body(&old, "/machine-config");
    assert!(machine.get("huge_pages").is_none() && machine.get("cpu_template").is_none());
}

#[test]
fn in_a_jail_firecracker_is_told_the_names_that_it_sees() {
    let root = PathBuf::from("/srv/jailer/firecracker/vm1/root");
    let confinement = Confinement::Jailed { root: root.clone() };
    let plan = accepted("1.16.1", &kernel_but(&[]), &PlanRequest { confinement, ..request() });
    assert_eq!(body(&plan, "/boot-source")["kernel_image_path"], "kernel");
    assert_eq!(body(&plan, "/drives/overlay")["path_on_host"], "disk_overlay");
    assert_eq!(body(&plan, "/vsock")["uds_path"], "vsock");
    let kernel = plan.files.iter().find(|it| it.vmm == Path::new("kernel")).unwrap();
    assert_eq!((&kernel.host, kernel.usage), (&PathBuf::from("/t/kernel"), FileUse::Read));
    assert!(
        matches!(&plan.agent[0], AgentTransport::Vsock { uds, .. } if *uds == root.join("vsock"))
    );
    let log = plan.program_args.iter().position(|it| it == "--log-path").unwrap();
    assert_eq!(plan.program_args[log + 1], "vmm.log");
}

#[test]
fn a_cpu_template_is_named_or_sent_after_the_machine() {
    let host = HostFacts { cpu_vendor: CpuVendor::Amd, ..HostFacts::default() };
    let with = |cpu| {
        let template = TemplateFacts { cpu: Some(cpu), ..template(initramfs(&[])) };
        plan(&host, version("1.16.1"), &kernel_but(&[]), &template, &request())
    };
    let named = with(CpuTemplate::Named(NamedCpuTemplate::T2A)).unwrap();
    assert_eq!(body(&named, "/machine-config")["cpu_template"], "T2A");
    let error = with(CpuTemplate::Named(NamedCpuTemplate::T2CL)).unwrap_err();
    assert!(error.to_string().contains("T2CL") && error.to_string().contains("Amd"), "{error}");
    let modifiers = serde_json::json!({ "msr_modifiers": [] }).as_object().unwrap().clone();
    let custom = with(CpuTemplate::Custom(CpuModifiers(modifiers))).unwrap();
    let at = |path: &str| paths(&custom).iter().position(|it| it == path).unwrap();
    assert_eq!(at("/cpu-config"), at("/machine-config") + 1);
    assert_eq!(body(&custom, "/cpu-config"), serde_json::json!({ "msr_modifiers": [] }));
}

#[test]
fn a_plan_prints_as_json_with_every_call() {
    let plan = accepted("1.16.1", &kernel_but(&[]), &request());
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["firecracker"], "1.16.1");
    assert_eq!(json["calls"][0]["method"], "PUT");
    assert_eq!(json["calls"][0]["path"], "/machine-config");
    assert_eq!(json["calls"][0]["body"]["vcpu_count"], 1);
}
