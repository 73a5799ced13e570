//! Boots that fail, each in its own way, and what is said of them.
//!
//! [`record`] writes the consoles of these very boots to `tests/fixtures/consoles`, where the unit
//! tests of the classifier read them.

use crate::guest::{Host, PATIENCE, archive};
use aetherium_model::{Code, Fault};
use aetherium_vmm::{
    LaunchSpec, Vmm,
    diagnose::{Phase, explain, gather, watch_boot},
};
use std::{fs, path::Path, time::Duration};

/// A boot that ends by itself: its name, what is special about it, and the verdict.
struct Case {
    name: &'static str,
    behave: &'static str,
    memory_mib: u32,
    initrd: Initrd,
    code: Code,
    says: &'static str,
}

enum Initrd {
    Init,
    WithoutInit,
    InitIsNoProgram,
    Garbage,
}

const fn case(name: &'static str, behave: &'static str, code: Code, says: &'static str) -> Case {
    Case { name, behave, memory_mib: 256, initrd: Initrd::Init, code, says }
}

fn cases() -> Vec<Case> {
    vec![
        case("init_exits", "exit", Code::InitExited, "exited with code 3"),
        case("init_crashes", "crash", Code::InitExited, "killed by signal 11"),
        case("kernel_panics", "panic", Code::KernelPanic, "sysrq triggered crash"),
        case("init_gives_up", "fatal", Code::RootNotFound, "vda (ext4, other, 77aa), vdb"),
        case("guest_powers_off", "power-off", Code::GuestShutdown, "before its agent answered"),
        Case {
            memory_mib: 128,
            ..case("init_eats_memory", "eat", Code::GuestOutOfMemory, "deadlocked on memory")
        },
        Case {
            memory_mib: 32,
            ..case("memory_too_small", "mute", Code::GuestOutOfMemory, "has 32 MiB of memory")
        },
        Case {
            initrd: Initrd::WithoutInit,
            ..case("no_init_in_initramfs", "", Code::InitMissing, "no /init")
        },
        Case {
            initrd: Initrd::InitIsNoProgram,
            ..case(
                "init_is_no_program",
                "",
                Code::InitMissing,
                "Failed to execute /init (error -8)",
            )
        },
        Case {
            initrd: Initrd::WithoutInit,
            ..case(
                "no_init_and_no_root",
                "x root=/dev/vda loglevel=5",
                Code::RootNotFound,
                "root on /dev/vda, which is not there; it saw no disk",
            )
        },
        Case {
            initrd: Initrd::Garbage,
            ..case("initramfs_is_garbage", "", Code::TemplateBroken, "invalid magic")
        },
    ]
}

fn spec(host: &Host, case: &Case) -> LaunchSpec {
    let initrd = host.path().join(case.name);
    let archived = |files| fs::write(&initrd, archive(files)).unwrap();
    let mut spec = match case.initrd {
        Initrd::Init => host.spec(case.behave),
        Initrd::WithoutInit => {
            archived(&[("other", b"")]);
            host.spec_with(case.behave, initrd.clone())
        }
        Initrd::InitIsNoProgram => {
            archived(&[("init", b"no program")]);
            host.spec_with(case.behave, initrd.clone())
        }
        Initrd::Garbage => {
            fs::write(&initrd, [0x5a; 9000]).unwrap();
            host.spec_with(case.behave, initrd.clone())
        }
    };
    spec.resources.memory_mib = case.memory_mib.try_into().unwrap();
    spec
}

/// Boots it, and returns the verdict with the console's content.
async fn boot(case: &Case) -> (Fault, String) {
    let host = Host::new();
    let machine = host.qemu().launch(&spec(&host, case)).await.unwrap();
    let fault = tokio::time::timeout(PATIENCE, watch_boot(&*machine)).await.unwrap();
    machine.kill(PATIENCE).await.unwrap();
    let console = fs::read(&machine.footprint().console).unwrap();
    (fault, String::from_utf8_lossy(&console).into_owned())
}

/// Boots one case, and checks the verdict that came without any deadline.
async fn says_why(name: &str) {
    let case = cases().into_iter().find(|case| case.name == name).unwrap();
    let (fault, console) = boot(&case).await;
    assert_eq!(fault.code, case.code, "{fault}\n{console}");
    assert!(fault.detail.contains(case.says), "{fault}\n{console}");
    assert!(!fault.remedy.is_empty(), "{fault}");
    assert_eq!(fault.evidence.is_empty(), console.is_empty(), "{:?}", fault.evidence);
}

macro_rules! boots_that_fail_and_say_why {
    ($($name:ident)+) => {
        $(#[tokio::test]
        async fn $name() {
            says_why(stringify!($name)).await;
        })+

        #[test]
        fn no_case_is_left_out() {
            let names: Vec<&str> = cases().iter().map(|case| case.name).collect();
            assert_eq!(names, [$(stringify!($name)),+]);
        }
    };
}

boots_that_fail_and_say_why! {
    init_exits
    init_crashes
    kernel_panics
    init_gives_up
    guest_powers_off
    init_eats_memory
    memory_too_small
    no_init_in_initramfs
    init_is_no_program
    no_init_and_no_root
    initramfs_is_garbage
}

#[tokio::test]
async fn a_silent_agent_is_told_from_a_silent_guest() {
    for (behave, code) in [("listening", Code::AgentSilent), ("stages", Code::AgentSilent)] {
        let host = Host::new();
        let machine = host.launch(behave).await;
        let console = machine.footprint().console.clone();
        let printed = async {
            while !fs::read_to_string(&console).unwrap().contains("uptime_ms=2\r\n") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, printed).await.unwrap();
        let waited = Some(Duration::from_secs(1));
        let fault = explain(&gather(machine.footprint(), Phase::Booting, None, waited).await);
        assert_eq!(fault.code, code, "{fault}");
        machine.kill(PATIENCE).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "writes the fixtures anew"]
async fn record() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/consoles");
    for case in cases() {
        let (_, console) = boot(&case).await;
        fs::write(dir.join(format!("{}.log", case.name)), console).unwrap();
    }
}
