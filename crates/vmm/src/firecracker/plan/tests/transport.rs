//! PCI or MMIO, and what the guest is told of it.

use super::*;

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
