//! The classifier against recorded consoles and against each kind of end.

use super::*;

/// Recorded by booting a distribution's kernel (`cargo test --test machines record -- --ignored`).
macro_rules! console {
    ($name:literal) => {
        include_str!(concat!("../../tests/fixtures/consoles/", $name, ".log"))
    };
}

fn ended(console: &str, exit: VmmExit) -> Evidence {
    Evidence { console_tail: console.to_owned(), exit: Some(exit), ..Evidence::default() }
}

#[test]
fn each_recorded_console_has_its_verdict() {
    let table = [
        (console!("init_exits"), Code::InitExited, "exited with code 3"),
        (console!("init_crashes"), Code::InitExited, "killed by signal 11"),
        (console!("init_gives_up"), Code::RootNotFound, "no disk has UUID 0b1e"),
        (console!("init_eats_memory"), Code::GuestOutOfMemory, "System is deadlocked on memory"),
        (console!("init_is_no_program"), Code::InitMissing, "Failed to execute /init (error -8)"),
        (console!("initramfs_is_garbage"), Code::TemplateBroken, "Initramfs unpacking failed"),
        (console!("kernel_panics"), Code::KernelPanic, "sysrq triggered crash"),
        (console!("no_init_in_initramfs"), Code::InitMissing, "unknown-block(0,0)"),
        (console!("no_init_and_no_root"), Code::RootNotFound, "it saw no disk"),
        (console!("guest_powers_off"), Code::GuestShutdown, "before its agent answered"),
    ];
    for (console, code, says) in table {
        let fault = explain(&ended(console, VmmExit::Code(0)));
        assert_eq!(fault.code, code, "{fault}\n{console}");
        assert!(fault.detail.contains(says), "{fault}");
        assert!(!fault.remedy.is_empty(), "{fault}");
        let decides = |line: &String| console.contains(line.as_str());
        assert!(!fault.evidence.is_empty() && fault.evidence.iter().all(decides), "{fault:?}");
    }
}

/// What a VM of the real Firecracker left: its console and Firecracker's log. Recorded by
/// `cargo test --test machines firecracker_failures::record -- --ignored`.
///
/// `kvm_gives_up` is a distribution's kernel on a host whose KVM could not run it to the end.
macro_rules! firecracker {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../tests/fixtures/firecracker/", $name, ".console.log")),
            include_str!(concat!("../../tests/fixtures/firecracker/", $name, ".vmm.log")),
        )
    };
}

#[test]
fn each_recorded_failure_of_firecracker_has_its_verdict() {
    const ENDED: Option<VmmExit> = Some(VmmExit::Code(0));
    let table = [
        (
            firecracker!("root_has_another_name"),
            ENDED,
            Code::RootNotFound,
            "/dev/vdz, which is not there; it saw vda",
        ),
        (
            firecracker!("pci_is_off_under_pci"),
            ENDED,
            Code::RootNotFound,
            "/dev/vda, which is not there; it saw no disk",
        ),
        (
            firecracker!("root_is_waited_for"),
            None,
            Code::RootNotFound,
            "still waits for its root on /dev/vdz",
        ),
        (firecracker!("root_has_no_file_system"), ENDED, Code::RootMountFailed, "/dev/vda"),
        (firecracker!("root_has_no_init"), ENDED, Code::InitMissing, "No working init found"),
        (firecracker!("init_exits"), ENDED, Code::InitExited, "exited with code 3"),
        (firecracker!("init_eats_memory"), ENDED, Code::GuestOutOfMemory, "deadlocked on memory"),
        (firecracker!("init_powers_off"), ENDED, Code::GuestShutdown, "before its agent answered"),
        (firecracker!("another_init_runs"), None, Code::AgentMissing, "guest login:"),
        (
            firecracker!("kernel_is_no_kernel"),
            None,
            Code::KernelUnsupported,
            "Invalid Elf magic number",
        ),
        (firecracker!("memory_is_too_small"), None, Code::GuestOutOfMemory, "16 MiB of memory"),
        (
            firecracker!("drive_is_not_there"),
            None,
            Code::VmmStartFailed,
            "No such file or directory",
        ),
        (firecracker!("field_is_unknown"), None, Code::VmmStartFailed, "unknown field `color`"),
        (
            firecracker!("tap_is_not_ours"),
            None,
            Code::NetworkFailed,
            "/dev/net/tun: Permission denied",
        ),
        (firecracker!("kvm_gives_up"), ENDED, Code::KvmFailed, "KVM_EXIT_INTERNAL_ERROR"),
        (
            firecracker!("agent_finds_another_root"),
            ENDED,
            Code::RootNotFound,
            "the guest saw vda (ext4, 0b1e77aa",
        ),
        (firecracker!("agent_has_no_vsock"), ENDED, Code::VsockMissing, "vsock is absent"),
        (firecracker!("agent_has_no_interface"), None, Code::NetworkFailed, "eth0 is not there"),
        (firecracker!("kvm_is_not_ours"), None, Code::KvmFailed, "Permission denied"),
    ];
    for ((name, console, log), exit, code, says) in table {
        let fault = explain(&Evidence {
            console_tail: console.to_owned(),
            vmm_log_tail: log.to_owned(),
            exit,
            waited: exit.is_none().then_some(Duration::from_secs(5)),
            memory_mib: if name == "memory_is_too_small" { 16 } else { 256 },
            boot_needs_bytes: 40 * MIB,
            ..Evidence::default()
        });
        assert_eq!(fault.code, code, "{name}: {fault}\n{console}\n{log}");
        assert!(fault.detail.contains(says), "{name}: {fault}");
        assert!(!fault.remedy.is_empty() && !fault.evidence.is_empty(), "{name}: {fault:?}");
    }
}

#[test]
fn a_vmms_complaint_counts_only_where_it_explains_the_end() {
    let log = "2026-01-01T00:00:00.1 [vm:fc_api:ERROR] Received Error. Status code: 400 Bad Request. \
               Message: Balloon config error: x\n";
    let of = |phase, console: &str, exit| {
        let (console_tail, vmm_log_tail) = (console.to_owned(), log.to_owned());
        explain(&Evidence { phase, console_tail, vmm_log_tail, exit, ..Evidence::default() }).code
    };
    assert_eq!(of(Phase::Booting, "", Some(VmmExit::Code(1))), Code::VmmStartFailed);
    // A call that was refused while the guest ran is not what ended it.
    assert_eq!(of(Phase::Running, "x", Some(VmmExit::Code(0))), Code::GuestShutdown);
    assert_eq!(of(Phase::Booting, "[ 1.0] x", Some(VmmExit::Code(0))), Code::BootFailedUnknown);
}

#[test]
fn a_console_that_decides_does_so_whether_or_not_its_vmm_has_ended() {
    let console = console!("init_exits");
    let running = Evidence { console_tail: console.to_owned(), ..Evidence::default() };
    assert_eq!(explain(&running), explain(&ended(console, VmmExit::Unknown)));
}

#[test]
fn kernel_messages_that_no_recording_has_are_told_apart() {
    let table = [
        ("VFS: Unable to mount root fs on unknown-block(254,0)", Code::RootMountFailed),
        ("VFS: Unable to mount root fs on unknown-block(0,0)", Code::InitMissing),
        ("VFS: Unable to mount root fs on \"\" or unknown-block(0,0)", Code::InitMissing),
        ("Requested init /sbin/x failed (error -2).", Code::InitMissing),
        ("No working init found.  Try passing init= option to kernel.", Code::InitMissing),
        ("Out of memory and no killable processes...", Code::GuestOutOfMemory),
        ("Out of memory: system-wide panic_on_oom is enabled", Code::GuestOutOfMemory),
        ("Fatal exception in interrupt", Code::KernelPanic),
    ];
    for (message, code) in table {
        let console = format!("[    1.2] Kernel panic - not syncing: {message}\r\n");
        assert_eq!(explain(&ended(&console, VmmExit::Code(0))).code, code, "{message}");
    }
}

#[test]
fn an_init_killed_for_memory_is_out_of_memory_and_not_an_exit() {
    let console = "[ 1.0] Initramfs unpacking failed: write error\n\
                   [ 1.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n";
    assert_eq!(explain(&ended(console, VmmExit::Code(0))).code, Code::GuestOutOfMemory);
    let console = "[ 1.0] Out of memory: Killed process 1 (init)\n\
                   [ 1.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009\n";
    assert_eq!(explain(&ended(console, VmmExit::Code(0))).code, Code::GuestOutOfMemory);
}

#[test]
fn a_silent_guest_is_short_of_memory_only_if_its_images_say_so() {
    let silent = |memory_mib, boot_needs_bytes| Evidence {
        memory_mib,
        boot_needs_bytes,
        ..ended("", VmmExit::Code(0))
    };
    let fault = explain(&silent(32, 68 * MIB));
    assert_eq!(fault.code, Code::GuestOutOfMemory);
    assert!(fault.detail.contains("32 MiB") && fault.detail.contains("68 MiB"), "{fault}");
    for enough in [silent(68, 68 * MIB), silent(32, 0), silent(0, 68 * MIB)] {
        assert_eq!(explain(&enough).code, Code::BootFailedUnknown);
    }
}

#[test]
fn the_vmms_own_end_is_told_by_who_ended_it() {
    let log = "qemu-system-x86_64: terminating on signal 15\n".to_owned();
    let of = |exit, phase, console: &str| {
        let evidence = Evidence { phase, vmm_log_tail: log.clone(), ..ended(console, exit) };
        explain(&evidence)
    };
    let table = [
        (VmmExit::Signal(9), Phase::Running, "x", Code::VmmKilled),
        (VmmExit::Signal(15), Phase::Booting, "", Code::VmmKilled),
        (VmmExit::Signal(6), Phase::Booting, "", Code::VmmStartFailed),
        (VmmExit::Signal(11), Phase::Running, "x", Code::VmmExited),
        (VmmExit::Code(1), Phase::Booting, "", Code::VmmStartFailed),
        (VmmExit::Code(1), Phase::Running, "x", Code::VmmExited),
        (VmmExit::Unknown, Phase::Running, "x", Code::VmmExited),
        (VmmExit::Code(0), Phase::Running, "x", Code::GuestShutdown),
        (VmmExit::Unknown, Phase::Running, "aetherium-init: power-off", Code::GuestShutdown),
    ];
    for (exit, phase, console, code) in table {
        let fault = of(exit, phase, console);
        assert_eq!(fault.code, code, "{exit:?} {phase:?} {console:?}: {fault}");
        assert!(!fault.evidence.is_empty(), "{fault:?}");
    }
}

#[test]
fn lost_patience_is_told_by_how_far_the_guest_came() {
    let waited = |phase, console: &str| {
        let waited = Some(Duration::from_secs(30));
        let console_tail = console.to_owned();
        explain(&Evidence { phase, console_tail, waited, ..Evidence::default() })
    };
    let stage = |name| format!("[ 1.2] aetherium-init: stage={name} uptime_ms=900\r\n");
    assert_eq!(waited(Phase::Booting, "").code, Code::BootTimeout);
    assert_eq!(waited(Phase::Booting, "[ 1.2] some driver").code, Code::BootTimeout);
    assert_eq!(waited(Phase::Booting, &stage("listening")).code, Code::AgentSilent);
    let on_the_way = waited(Phase::Booting, &stage("modules"));
    assert_eq!(on_the_way.code, Code::AgentSilent);
    assert!(on_the_way.detail.contains("modules") && on_the_way.detail.contains("30.0 s"));
    assert_eq!(waited(Phase::Running, &stage("listening")).code, Code::AgentLost);
}

#[test]
fn what_shows_nothing_is_unknown_and_shows_its_last_lines() {
    let fault = explain(&ended("one\ntwo\n", VmmExit::Code(0)));
    assert_eq!(fault.code, Code::BootFailedUnknown);
    assert_eq!(fault.evidence, ["one", "two"]);
}

#[test]
fn a_boot_under_way_is_never_taken_for_lost() {
    let recorded = [
        console!("init_exits"),
        console!("init_crashes"),
        console!("init_gives_up"),
        console!("init_eats_memory"),
        console!("init_is_no_program"),
        console!("initramfs_is_garbage"),
        console!("kernel_panics"),
        console!("no_init_in_initramfs"),
    ];
    for console in recorded {
        let lines = text::clean_lines(console);
        let decides =
            |line: &String| line.contains("Kernel panic") || line.contains("aetherium-init: fatal");
        let at = lines.iter().position(decides).unwrap();
        for so_far in 0..at {
            assert_eq!(console::verdict(&lines[..so_far]), None, "{:?}", &lines[..so_far]);
        }
        assert!(console::verdict(&lines[..=at]).is_some());
    }
}

proptest::proptest! {
    #[test]
    fn garbage_is_unknown_and_shows_its_last_lines(
        console in "([ -~]{0,60}\n){0,20}", vmm_log in "([ -~]{0,60}\n){0,20}",
        ended: bool,
    ) {
        let fault = explain(&Evidence {
            console_tail: console.clone(),
            vmm_log_tail: vmm_log.clone(),
            exit: ended.then_some(VmmExit::Code(0)),
            memory_mib: 256,
            boot_needs_bytes: 40 * MIB,
            ..Evidence::default()
        });
        proptest::prop_assert_eq!(fault.code, Code::BootFailedUnknown, "{}", fault);
        let shown = text::clean_lines(if text::clean_lines(&console).is_empty() { &vmm_log } else { &console });
        proptest::prop_assert_eq!(fault.evidence, text::last(&shown));
    }

    #[test]
    fn whatever_a_guest_prints_there_is_a_verdict_with_bounded_evidence(
        console: String, vmm_log: String, code: Option<i32>, waited: Option<u16>, running: bool,
    ) {
        let fault = explain(&Evidence {
            phase: if running { Phase::Running } else { Phase::Booting },
            console_tail: console,
            vmm_log_tail: vmm_log,
            exit: code.map(VmmExit::Code),
            waited: waited.map(|seconds| Duration::from_secs(seconds.into())),
            ..Evidence::default()
        });
        proptest::prop_assert!(fault.evidence.len() <= text::MAX_LINES);
        proptest::prop_assert!(!fault.detail.is_empty());
    }
}
