//! What holds for every plan that is accepted.

use super::*;
use aetherium_model::resources::{DiskMib, MemoryMib, Vcpus};
use proptest::prelude::*;
use std::path::Path;

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
