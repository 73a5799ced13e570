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
