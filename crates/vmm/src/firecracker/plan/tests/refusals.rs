//! What cannot boot, and what can go wrong later.

use super::*;
use aetherium_model::resources::MemoryMib;

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
