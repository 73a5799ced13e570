//! The planner across versions × kernels, its refusals, and what holds for every plan.

use super::*;
use aetherium_model::{
    kernel::{ConfigSource, KernelConfig, KernelOption as Option_, Setting},
    resources::{DiskMib, MemoryMib, Resources, Vcpus},
    template::{CpuModifiers, CpuTemplate, KernelFormat, NamedCpuTemplate},
};
use aetherium_net::GuestNet;
use proptest::prelude::*;
use std::path::Path;

const MIB: u64 = 1024 * 1024;

fn version(text: &str) -> FirecrackerVersion {
    text.parse().unwrap()
}

fn kernel(options: &[(Option_, Setting)]) -> KernelFacts {
    let options = options.iter().copied().filter(|it| it.1 != Setting::Off).collect();
    KernelFacts {
        release: "6.1.0".to_owned(),
        format: KernelFormat::Elf,
        needs_bytes: 40 * MIB,
        config: Some(KernelConfig { source: ConfigSource::Image, options }),
    }
}

/// A kernel with everything, but for what `except` says.
fn kernel_but(except: &[(Option_, Setting)]) -> KernelFacts {
    let full = Option_::ALL.iter().map(|option| {
        let own = except.iter().find(|it| it.0 == *option);
        (*option, own.map_or(Setting::BuiltIn, |it| it.1))
    });
    kernel(&full.collect::<Vec<_>>())
}

fn unknown_kernel() -> KernelFacts {
    KernelFacts { config: None, ..kernel_but(&[]) }
}

fn initramfs(modules: &[&str]) -> Start {
    Start::Initramfs(InitramfsFacts {
        path: "/t/initramfs".into(),
        bytes: 4 * MIB,
        modules: modules.iter().map(|it| (*it).to_owned()).collect(),
    })
}

fn template(start: Start) -> TemplateFacts {
    TemplateFacts {
        kernel: KernelFiles { image: "/t/kernel".into(), format: KernelFormat::Elf, elf: None },
        start,
        kernel_args: Vec::new(),
        cpu: None,
    }
}

fn disk(id: &str, read_only: bool) -> DiskRequest {
    DiskRequest {
        path: format!("/t/{id}.ext4").into(),
        read_only,
        id: id.to_owned(),
        purpose: "a disk",
    }
}

fn network() -> NetworkRequest {
    let netns = Some("/run/netns/vm1".into());
    NetworkRequest { tap: "tap0".to_owned(), netns, guest: GuestNet::COMMON }
}

fn request() -> PlanRequest {
    PlanRequest {
        run_dir: "/run/vm1".into(),
        confinement: Confinement::Plain,
        resources: Resources::default(),
        transport: TransportChoice::Auto,
        disks: vec![disk("root", true), disk("overlay", false)],
        network: None,
        vsock: Some(VsockRequest { guest_cid: 3 }),
        balloon: None,
        entropy: true,
        limits: RateLimits::default(),
        huge_pages: HugePages::None,
        track_dirty_pages: false,
        console: Console::Quiet,
        kernel_args: Vec::new(),
    }
}

fn planned(
    firecracker: &str,
    kernel: &KernelFacts,
    template: &TemplateFacts,
    request: &PlanRequest,
) -> Result<Plan, PlanError> {
    plan(&HostFacts::default(), version(firecracker), kernel, template, request)
}

fn accepted(firecracker: &str, kernel: &KernelFacts, request: &PlanRequest) -> Plan {
    planned(firecracker, kernel, &template(initramfs(&[])), request).unwrap()
}

fn refused(firecracker: &str, kernel: &KernelFacts, request: &PlanRequest) -> PlanError {
    planned(firecracker, kernel, &template(initramfs(&[])), request).unwrap_err()
}

fn paths(plan: &Plan) -> Vec<String> {
    plan.calls.iter().map(|call| call.path().into_owned()).collect()
}

fn body(plan: &Plan, path: &str) -> serde_json::Value {
    plan.calls.iter().find(|call| call.path() == path).unwrap().body().unwrap()
}

#[test]
fn the_transport_follows_from_version_and_kernel() {
    use Setting::{Module, Off};
    use VirtioTransport::{Mmio, Pci};
    let full = kernel_but(&[]);
    let no_pci = kernel_but(&[(Option_::PciMmconfig, Off)]);
    let pci_module = kernel_but(&[(Option_::VirtioPci, Module)]);
    let no_mmio = kernel_but(&[(Option_::VirtioMmio, Off)]);
    let by_acpi = kernel_but(&[(Option_::PciMsi, Off), (Option_::VirtioMmioCmdline, Off)]);
    let by_cmdline = kernel_but(&[(Option_::PciMsi, Off), (Option_::Acpi, Off)]);
    let unknown = unknown_kernel();
    let none: &[&str] = &[];
    let virtio_pci: &[&str] = &["virtio_pci"];
    // Version, kernel, modules of the initramfs: the transport, or `None` for a refusal.
    let table = [
        ("1.7.0", &full, none, Some(Mmio)),
        ("1.12.1", &full, none, Some(Mmio)),
        ("1.13.0", &full, none, Some(Pci)),
        ("1.16.1", &full, none, Some(Pci)),
        ("1.17.0-dev", &full, none, Some(Pci)),
        ("1.16.1", &no_pci, none, Some(Mmio)),
        ("1.16.1", &pci_module, none, Some(Mmio)),
        ("1.16.1", &pci_module, virtio_pci, Some(Pci)),
        ("1.12.1", &pci_module, virtio_pci, Some(Mmio)),
        ("1.16.1", &no_mmio, none, Some(Pci)),
        ("1.12.1", &no_mmio, none, None),
        ("1.16.1", &by_acpi, none, Some(Mmio)),
        ("1.8.0", &by_acpi, none, Some(Mmio)),
        ("1.7.0", &by_acpi, none, None),
        ("1.7.0", &by_cmdline, none, Some(Mmio)),
        ("1.16.1", &by_cmdline, none, Some(Mmio)),
        ("1.16.1", &unknown, none, Some(Mmio)),
    ];
    for (firecracker, kernel, modules, expected) in table {
        let template = template(initramfs(modules));
        let plan = planned(firecracker, kernel, &template, &request());
        let case = format!("Firecracker {firecracker}, modules {modules:?}, {kernel:?}: {plan:?}");
        match expected {
            Some(transport) => {
                let plan = plan.unwrap();
                assert_eq!(plan.transport, transport, "{case}");
                let flag = plan.program_args.contains(&"--enable-pci".to_owned());
                assert_eq!(flag, transport == Pci, "{case}");
                let reason = plan.reasons.iter().find(|it| it.topic == Topic::Transport).unwrap();
                assert!(reason.chosen == transport.as_str() && !reason.why.is_empty(), "{case}");
            }
            None => {
                assert!(matches!(plan, Err(PlanError::TransportMissing { .. })), "{case}");
            }
        }
    }
}

#[test]
fn a_forced_transport_is_had_or_refused_but_never_replaced() {
    let force =
        |transport| PlanRequest { transport: TransportChoice::Only(transport), ..request() };
    let pci = force(VirtioTransport::Pci);
    let mmio = force(VirtioTransport::Mmio);
    let full = kernel_but(&[]);
    assert_eq!(accepted("1.16.1", &full, &mmio).transport, VirtioTransport::Mmio);
    assert_eq!(accepted("1.13.0", &full, &pci).transport, VirtioTransport::Pci);
    let old = refused("1.12.1", &full, &pci);
    assert!(matches!(old, PlanError::FeatureMissing { feature: Feature::Pci, .. }), "{old}");
    assert!(old.to_string().contains("1.12.1") && old.to_string().contains("1.13.0"), "{old}");
    let lacks = kernel_but(&[(Option_::PciMsi, Setting::Off)]);
    let lacking = refused("1.16.1", &lacks, &pci);
    assert!(lacking.to_string().contains("CONFIG_PCI_MSI"), "{lacking}");
}

#[test]
fn pci_off_is_refused_with_pci_and_decides_for_mmio_where_nobody_forces() {
    let args = || vec!["pci=off".to_owned()];
    let auto = PlanRequest { kernel_args: args(), ..request() };
    let plan = accepted("1.16.1", &kernel_but(&[]), &auto);
    assert_eq!(plan.transport, VirtioTransport::Mmio);
    let transport = TransportChoice::Only(VirtioTransport::Pci);
    let forced = PlanRequest { kernel_args: args(), transport, ..request() };
    let error = refused("1.16.1", &kernel_but(&[]), &forced);
    assert!(matches!(&error, PlanError::KernelArg { arg, .. } if arg == "pci=off"), "{error}");
}

#[test]
fn what_cannot_boot_is_refused_with_the_reason() {
    use Setting::{Module, Off};
    let full = kernel_but(&[]);
    let with = |request| refused("1.16.1", &full, &request);
    let memory =
        |mib| Resources { memory_mib: MemoryMib::try_from(mib).unwrap(), ..Resources::default() };
    let balloon =
        Some(BalloonRequest { amount_mib: 500, deflate_on_oom: true, stats_interval_s: 0 });
    let arg = |arg: &str| PlanRequest { kernel_args: vec![arg.to_owned()], ..request() };
    let without = |option, setting| {
        let kernel = kernel_but(&[(option, setting)]);
        refused("1.16.1", &kernel, &PlanRequest { network: Some(network()), ..request() })
    };
    let modular = planned(
        "1.16.1",
        &kernel_but(&[(Option_::VirtioBlk, Module)]),
        &template(initramfs(&["virtio_blk"])),
        &arg("nomodule"),
    );
    let table = [
        (with(PlanRequest { vsock: None, ..request() }), "neither a virtio socket nor a network"),
        (without(Option_::VirtioBlk, Off), "CONFIG_VIRTIO_BLK"),
        (without(Option_::VirtioBlk, Module), "CONFIG_VIRTIO_BLK"),
        (without(Option_::Ext4, Off), "CONFIG_EXT4_FS"),
        (without(Option_::Overlay, Module), "CONFIG_OVERLAY_FS"),
        (without(Option_::VirtioNet, Off), "CONFIG_VIRTIO_NET"),
        (without(Option_::Initramfs, Off), "CONFIG_BLK_DEV_INITRD"),
        (refused("1.16.1", &kernel_but(&[(Option_::VirtioVsock, Off)]), &request()), "no network"),
        (
            with(PlanRequest { resources: memory(47), ..request() }),
            "47 MiB of memory are less than the 48 MiB",
        ),
        (with(PlanRequest { balloon, ..request() }), "balloon of 500 MiB"),
        (
            with(PlanRequest { huge_pages: HugePages::TwoMib, ..request() }),
            "256 pages of 2 MiB, and 0 are free",
        ),
        (
            with(PlanRequest { huge_pages: HugePages::Transparent, ..request() }),
            "it came with 1.17.0",
        ),
        (
            with(PlanRequest { vsock: Some(VsockRequest { guest_cid: 2 }), ..request() }),
            "context id",
        ),
        (with(arg("rdinit=/bin/sh")), "another program than the agent"),
        (with(arg("a b")), "without spaces"),
        (with(arg("--")), "the init's"),
        (with(arg(&"x".repeat(2000))), "more than the 2048 that fit"),
        (modular.unwrap_err(), "modules of its initramfs"),
        (refused("1.6.0", &full, &request()), "older than 1.7.0"),
    ];
    for (error, says) in table {
        assert!(error.to_string().contains(says), "{error} does not say {says:?}");
        assert!(!error.remedy().is_empty(), "{error}");
    }
}

#[test]
fn a_module_counts_only_when_the_initramfs_brings_it() {
    let kernel = kernel_but(&[
        (Option_::VirtioBlk, Setting::Module),
        (Option_::Ext4, Setting::Module),
        (Option_::Overlay, Setting::Module),
    ]);
    let some = template(initramfs(&["virtio_blk", "ext4"]));
    let error = planned("1.16.1", &kernel, &some, &request()).unwrap_err();
    assert!(error.to_string().contains("CONFIG_OVERLAY_FS"), "{error}");
    let all = template(initramfs(&["virtio_blk", "ext4", "overlay"]));
    planned("1.16.1", &kernel, &all, &request()).unwrap();
    let bare = template(Start::Disk { init: None });
    let error = planned("1.16.1", &kernel, &bare, &request()).unwrap_err();
    assert!(error.to_string().contains("CONFIG_VIRTIO_BLK"), "{error}");
}

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
fn a_guest_is_told_of_no_bus_exactly_where_there_is_none() {
    let on = |transport| {
        let transport = TransportChoice::Only(transport);
        accepted("1.16.1", &kernel_but(&[]), &PlanRequest { transport, ..request() })
    };
    assert!(!on(VirtioTransport::Pci).kernel_args.contains("pci="));
    let mmio = on(VirtioTransport::Mmio);
    assert!(mmio.kernel_args.contains("pci=off"));
    assert_eq!(mmio.appended_args.iter().filter(|it| it.starts_with("virtio_mmio")).count(), 4);
}

#[test]
fn vsock_goes_before_tcp_and_gives_way_where_the_kernel_has_no_driver() {
    let both = PlanRequest { network: Some(network()), ..request() };
    let plan = accepted("1.16.1", &kernel_but(&[]), &both);
    assert!(matches!(plan.agent[..], [AgentTransport::Vsock { .. }, AgentTransport::Tcp { .. }]));
    let plan = accepted("1.16.1", &kernel_but(&[(Option_::VirtioVsock, Setting::Off)]), &both);
    let AgentTransport::Tcp { netns, address } = &plan.agent[0] else { panic!("{:?}", plan.agent) };
    assert_eq!((netns, *address), (&network().netns, "172.16.0.2:9999".parse().unwrap()));
    assert!(!paths(&plan).contains(&"/vsock".to_owned()));
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
fn limits_reach_each_device_and_huge_pages_the_machine() {
    let bucket = TokenBucket { size: 1 << 20, one_time_burst: None, refill_time: 100 };
    let limiter = RateLimiter { bandwidth: Some(bucket), ops: None };
    let limits = RateLimits { disk: Some(limiter), net_tx: Some(limiter), ..RateLimits::default() };
    let request = PlanRequest {
        limits,
        huge_pages: HugePages::TwoMib,
        network: Some(network()),
        ..request()
    };
    let host = HostFacts { free_huge_pages: 256, ..HostFacts::default() };
    let template = template(initramfs(&[]));
    let plan = plan(&host, version("1.7.0"), &kernel_but(&[]), &template, &request).unwrap();
    let expected = serde_json::json!({ "bandwidth": { "size": 1_048_576, "refill_time": 100 } });
    assert_eq!(body(&plan, "/drives/overlay")["rate_limiter"], expected);
    assert_eq!(body(&plan, "/network-interfaces/eth0")["tx_rate_limiter"], expected);
    assert!(body(&plan, "/network-interfaces/eth0").get("rx_rate_limiter").is_none());
    assert_eq!(body(&plan, "/machine-config")["huge_pages"], "2M");
}

#[test]
fn a_kernel_whose_console_cannot_work_is_told_of() {
    let why = |option| {
        let plan = accepted("1.16.1", &kernel_but(&[(option, Setting::Off)]), &request());
        plan.reasons.iter().find(|it| it.topic == Topic::Console).unwrap().why.clone()
    };
    assert!(why(Option_::SerialConsole).contains("no serial console"));
    assert!(why(Option_::SerialPnp).contains("SERIAL_8250_PNP"));
    assert!(
        !accepted("1.16.1", &kernel_but(&[(Option_::AtKeyboard, Setting::Off)]), &request())
            .hears_ctrl_alt_del
    );
}

#[test]
fn an_empty_balloon_is_done_without_where_the_kernel_has_none_and_a_full_one_refused() {
    let kernel = kernel_but(&[(Option_::VirtioBalloon, Setting::Off)]);
    let of = |amount_mib| {
        let balloon = BalloonRequest { amount_mib, deflate_on_oom: true, stats_interval_s: 0 };
        PlanRequest { balloon: Some(balloon), ..request() }
    };
    assert!(!paths(&accepted("1.16.1", &kernel, &of(0))).contains(&"/balloon".to_owned()));
    let error = refused("1.16.1", &kernel, &of(8));
    assert!(error.to_string().contains("CONFIG_VIRTIO_BALLOON"), "{error}");
}

#[test]
fn a_plan_warns_of_the_defects_that_its_vm_can_meet() {
    let memory_mib = MemoryMib::try_from(4096).unwrap();
    let large = Resources { memory_mib, ..Resources::default() };
    let large = PlanRequest { resources: large, track_dirty_pages: true, ..request() };
    let over_tcp = PlanRequest { vsock: None, network: Some(network()), ..request() };
    let warned =
        |version, request: &PlanRequest| accepted(version, &kernel_but(&[]), request).warnings;
    assert!(warned("1.14.0", &large).contains(&KnownBad::LargeDiffSnapshots));
    assert!(!warned("1.14.0", &request()).contains(&KnownBad::LargeDiffSnapshots));
    assert_eq!(warned("1.16.1", &request()), [KnownBad::PausedVsock]);
    assert_eq!(warned("1.16.1", &over_tcp), []);
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

prop_compose! {
    fn any_kernel()(
        settings in prop::collection::vec(0..30_u8, Option_::ALL.len()),
        known in prop::bool::weighted(0.9),
    ) -> KernelFacts {
        let of = |it: u8| match it { 0 => Setting::Off, 1 => Setting::Module, _ => Setting::BuiltIn };
        let options: Vec<_> =
            Option_::ALL.iter().copied().zip(settings.into_iter().map(of)).collect();
        if known { kernel(&options) } else { unknown_kernel() }
    }
}

prop_compose! {
    fn any_template()(
        modules in prop::collection::vec(
            prop::sample::select(vec!["virtio_pci", "virtio_mmio", "virtio_blk", "ext4", "overlay"]),
            0..5,
        ),
        with_initramfs in prop::bool::weighted(0.7),
        args in any_args(),
    ) -> TemplateFacts {
        let start =
            if with_initramfs { initramfs(&modules) } else { Start::Disk { init: None } };
        TemplateFacts { kernel_args: args, ..template(start) }
    }
}

fn any_args() -> impl Strategy<Value = Vec<String>> {
    let arg = prop::sample::select(vec![
        "pci=off",
        "pci=noearly,off",
        "acpi=off",
        "nomodule",
        "loglevel=7",
        "quiet",
        "pci=nomsi",
    ]);
    prop::collection::vec(arg.prop_map(str::to_owned), 0..2)
}

prop_compose! {
    fn any_request()(
        transport in prop::sample::select(vec![
            TransportChoice::Auto,
            TransportChoice::Only(VirtioTransport::Pci),
            TransportChoice::Only(VirtioTransport::Mmio),
        ]),
        disks in 0..4_usize,
        has in any::<[bool; 4]>(),
        memory in 16..2048_u32,
        jailed: bool,
        kernel_args in any_args(),
    ) -> PlanRequest {
        let [with_network, with_vsock, with_balloon, entropy] = has;
        let root = PathBuf::from("/srv/jail/root");
        PlanRequest {
            transport,
            disks: (0..disks).map(|at| disk(&format!("d{at}"), at == 0)).collect(),
            network: with_network.then(network),
            vsock: with_vsock.then_some(VsockRequest { guest_cid: 3 }),
            balloon: with_balloon.then_some(BalloonRequest {
                amount_mib: memory / 4, deflate_on_oom: true, stats_interval_s: 1,
            }),
            entropy,
            confinement: if jailed { Confinement::Jailed { root } } else { Confinement::Plain },
            resources: Resources {
                memory_mib: MemoryMib::try_from(memory).unwrap(),
                vcpus: Vcpus::try_from(1).unwrap(),
                disk_mib: DiskMib::try_from(64).unwrap(),
            },
            kernel_args,
            ..request()
        }
    }
}

fn any_version() -> impl Strategy<Value = FirecrackerVersion> {
    (6..19_u32, 0..3_u32).prop_map(|(minor, patch)| FirecrackerVersion::release(1, minor, patch))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_accepted_plan_can_boot(
        firecracker in any_version(),
        kernel in any_kernel(),
        template in any_template(),
        request in any_request(),
    ) {
        let make = || plan(&HostFacts::default(), firecracker, &kernel, &template, &request);
        let made = make();
        prop_assert_eq!(&made, &make(), "the same values give the same plan");
        let Ok(plan) = made else { return Ok(()) };

        // The agent can be reached.
        prop_assert!(!plan.agent.is_empty());
        for way in &plan.agent {
            let attached = match way {
                AgentTransport::Vsock { .. } => paths(&plan).contains(&"/vsock".to_owned()),
                AgentTransport::Tcp { .. } => request.network.is_some(),
            };
            prop_assert!(attached, "{:?}", way);
        }

        // PCI is on exactly where the devices are on it.
        let args: Vec<&str> = plan.kernel_args.split(' ').collect();
        let on_pci = plan.transport == VirtioTransport::Pci;
        prop_assert_eq!(on_pci, plan.program_args.contains(&"--enable-pci".to_owned()));
        let turned_off = kernel_args::pci_off(args.iter().copied());
        prop_assert_eq!(on_pci, turned_off.is_none(), "{:?}", args);
        prop_assert!(!on_pci || firecracker.supports(Feature::Pci));

        // The root comes first, and Firecracker names one exactly where the kernel mounts it.
        let drives: Vec<&Drive> = plan.calls.iter()
            .filter_map(|call| match call { ApiCall::Drive(drive) => Some(drive), _ => None })
            .collect();
        let ids: Vec<&str> = drives.iter().map(|it| it.drive_id.as_str()).collect();
        let asked: Vec<&str> = request.disks.iter().map(|it| it.id.as_str()).collect();
        prop_assert_eq!(ids, asked);
        let roots: Vec<usize> =
            (0..drives.len()).filter(|at| drives[*at].is_root_device).collect();
        let by_kernel = matches!(template.start, Start::Disk { .. });
        prop_assert_eq!(roots, if by_kernel { vec![0] } else { vec![] });

        // Each path that Firecracker is given is one it can see.
        for call in &plan.calls {
            let body = call.body().unwrap();
            for field in ["kernel_image_path", "initrd_path", "path_on_host", "uds_path"] {
                let Some(path) = body.get(field).and_then(|it| it.as_str()) else { continue };
                prop_assert!(plan.files.iter().any(|it| it.vmm == Path::new(path)), "{}", path);
            }
        }
        let topics: Vec<Topic> = plan.reasons.iter().map(|it| it.topic).collect();
        prop_assert!(topics.contains(&Topic::Transport) && topics.contains(&Topic::Agent));
        prop_assert!(plan.reasons.iter().all(|it| !it.why.is_empty()));
    }
}
