//! Failures on the real Firecracker, each in its own way, and what is said of them.
//!
//! Run by hand, where `AETHERIUM_FIRECRACKER` and `AETHERIUM_TEST_KERNEL_FIRECRACKER` name a
//! Firecracker and an uncompressed kernel with all drivers built in whose guests boot here; else each
//! test says that it was skipped. [`record`] writes what these very boots leave to `tests/fixtures/firecracker`, where
//! the unit tests of the classifier read it. Firecracker is driven by hand: what is wrong with these
//! VMs is what the driver would not let through.

use crate::guest::{archive, init, is_elf};
use aetherium_model::{Code, Fault};
use aetherium_vmm::{
    VmmExit,
    diagnose::{Evidence, Phase, explain},
};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::{
        fs::{PermissionsExt, chown},
        net::UnixStream,
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Ample for a guest on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);
/// A user that may do nothing.
const NOBODY: u32 = 65_534;
const ARGS: &str =
    "console=ttyS0 reboot=k panic=-1 i8042.noaux i8042.nomux i8042.dumbkbd loglevel=5";

const ROOT_UUID: &str = "0b1e77aa-0000-4000-8000-000000000001";

/// What is at hand.
struct Real {
    dir: TempDir,
    firecracker: PathBuf,
    kernel: PathBuf,
}

impl Real {
    fn at_hand() -> Option<Self> {
        let named = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let found = named("AETHERIUM_FIRECRACKER").zip(named("AETHERIUM_TEST_KERNEL_FIRECRACKER"));
        let found = found.filter(|(_, kernel)| is_elf(kernel));
        let Some((firecracker, image)) = found else {
            eprintln!(
                "SKIPPED: no real Firecracker: set AETHERIUM_FIRECRACKER and \
                 AETHERIUM_TEST_KERNEL_FIRECRACKER (an uncompressed kernel)"
            );
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        // Readable by whoever runs it.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let kernel = dir.path().join("kernel");
        fs::copy(image, &kernel).unwrap();
        Some(Self { dir, firecracker, kernel })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An ext4 file system without any program, whose UUID is [`ROOT_UUID`].
    fn ext4(&self) -> PathBuf {
        let (path, content) = (self.path("disk.ext4"), self.path("content"));
        // Where an init mounts what a running system needs.
        for mount_point in ["dev", "proc", "sys", "run"] {
            fs::create_dir_all(content.join(mount_point)).unwrap();
        }
        File::create(&path).unwrap().set_len(16 << 20).unwrap();
        let search = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
        let made = Command::new("mkfs.ext4")
            .env("PATH", search)
            .args(["-q", "-F", "-U", ROOT_UUID, "-d"])
            .args([&content, &path])
            .status();
        assert!(made.unwrap().success());
        path
    }
}

/// A VM that does not come up.
#[derive(Default)]
struct Broken {
    pci: bool,
    as_nobody: bool,
    memory_mib: Option<u32>,
    kernel: Option<PathBuf>,
    args: String,
    initrd: Option<PathBuf>,
    drive: Option<(PathBuf, bool)>,
    calls: Vec<(&'static str, Value)>,
}

impl Broken {
    fn calls(&self, real: &Real) -> Vec<(&'static str, Value)> {
        let memory_mib = self.memory_mib.unwrap_or(256);
        let mut boot = json!({
            "kernel_image_path": self.kernel.as_ref().unwrap_or(&real.kernel),
            "boot_args": format!("{ARGS} {}", self.args),
        });
        if let Some(initrd) = &self.initrd {
            boot["initrd_path"] = json!(initrd);
        }
        let machine = json!({ "vcpu_count": 1, "mem_size_mib": memory_mib });
        let mut calls = vec![("/machine-config", machine), ("/boot-source", boot)];
        if let Some((path, is_root_device)) = &self.drive {
            let drive = json!({
                "drive_id": "root", "path_on_host": path, "is_root_device": is_root_device,
                "is_read_only": true,
            });
            calls.push(("/drives/root", drive));
        }
        calls.extend(self.calls.iter().cloned());
        calls.push(("/actions", json!({ "action_type": "InstanceStart" })));
        calls
    }
}

/// What a VM left.
struct Left {
    console: String,
    log: String,
    exit: Option<VmmExit>,
}

/// A Firecracker that does not outlive the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a VM until Firecracker ends, refuses a call, or `until` is seen on the console.
fn run(real: &Real, broken: &Broken, until: Option<&str>) -> Left {
    let (console, log, socket) =
        (real.path("console.log"), real.path("vmm.log"), real.path("api.sock"));
    let open = |path: &Path| File::create(path).unwrap();
    let (output, logged) = (open(&console), open(&log));
    let mut command = Command::new(&real.firecracker);
    command
        .args(["--api-sock".as_ref(), socket.as_os_str()])
        .args(["--log-path".as_ref(), log.as_os_str()])
        .args(["--id", "broken", "--level", "Warning", "--show-level"])
        .args(broken.pci.then_some("--enable-pci"))
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(logged.try_clone().unwrap());
    if broken.as_nobody {
        chown(real.dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        chown(&log, Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    let mut firecracker = Running(command.spawn().unwrap());
    let began = Instant::now();
    while UnixStream::connect(&socket).is_err() {
        assert!(began.elapsed() < PATIENCE, "Firecracker does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    let refused = broken.calls(real).iter().any(|(path, body)| !put(&socket, path, body));
    let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    let mut exit = None;
    while !refused && exit.is_none() {
        assert!(began.elapsed() < PATIENCE, "neither an end nor {until:?}: {}", read(&console));
        if until.is_some_and(|sign| read(&console).contains(sign)) {
            break;
        }
        exit =
            firecracker.0.try_wait().unwrap().map(|status| VmmExit::Code(status.code().unwrap()));
        std::thread::sleep(Duration::from_millis(20));
    }
    Left { console: read(&console), log: read(&log), exit }
}

/// Whether Firecracker took it.
fn put(socket: &Path, path: &str, body: &Value) -> bool {
    let body = body.to_string();
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    answer == *b"HTTP/1.1 204"
}

/// One way to fail: what the VM is, how long it is watched, and what is said of it.
struct Case {
    name: &'static str,
    broken: fn(&Real) -> Broken,
    until: Option<&'static str>,
    code: Code,
    says: &'static str,
}

fn with_init(real: &Real, behave: &str) -> Broken {
    let initrd = real.path("initrd");
    fs::write(&initrd, archive(&[("init", &init(real.dir.path()))])).unwrap();
    Broken { initrd: Some(initrd), args: format!("behave={behave}"), ..Broken::default() }
}

/// The real agent as init, told this, with a root disk.
fn with_agent(real: &Real, mut config: Value) -> Broken {
    let agent = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-assets/fc-agent");
    let agent = fs::read(&agent).expect("the agent: run `make test`, which builds it");
    config["ends_by"] = json!("restart");
    let initrd = real.path("initrd");
    let config = config.to_string();
    let files: [(&str, &[u8]); 2] = [("init", &agent), ("aetherium/guest.json", config.as_bytes())];
    fs::write(&initrd, archive(&files)).unwrap();
    Broken { initrd: Some(initrd), drive: Some((real.ext4(), false)), ..Broken::default() }
}

const CASES: [Case; 18] = [
    Case {
        name: "agent_finds_another_root",
        broken: |real| {
            let other = "00000000-0000-4000-8000-000000000002";
            let config = json!({ "root": { "by": { "uuid": other } }, "root_deadline_ms": 300 });
            with_agent(real, config)
        },
        until: None,
        code: Code::RootNotFound,
        says: "the guest saw vda (ext4, 0b1e77aa-0000-4000-8000-000000000001)",
    },
    Case {
        name: "agent_has_no_vsock",
        broken: |real| {
            let transports = json!({ "vsock": true, "tcp": false });
            let root = json!({ "by": { "uuid": ROOT_UUID } });
            with_agent(real, json!({ "root": root, "transports": transports }))
        },
        until: None,
        code: Code::VsockMissing,
        says: "vsock is absent",
    },
    Case {
        name: "agent_has_no_interface",
        broken: |real| {
            let root = json!({ "by": { "uuid": ROOT_UUID } });
            let net = json!({ "address_cidr": "172.16.0.2/24" });
            with_agent(real, json!({ "root": root, "net": net, "token": "a-token-of-the-tests" }))
        },
        until: Some("stage=listening"),
        code: Code::NetworkFailed,
        says: "eth0 is not there",
    },
    Case {
        name: "root_has_another_name",
        broken: |real| Broken {
            args: "root=/dev/vdz".into(),
            drive: Some((real.ext4(), false)),
            ..Broken::default()
        },
        until: None,
        code: Code::RootNotFound,
        says: "root on /dev/vdz, which is not there; it saw vda",
    },
    Case {
        name: "pci_is_off_under_pci",
        broken: |real| Broken {
            pci: true,
            args: "pci=off".into(),
            drive: Some((real.ext4(), true)),
            ..Broken::default()
        },
        until: None,
        code: Code::RootNotFound,
        says: "root on /dev/vda, which is not there; it saw no disk",
    },
    Case {
        name: "root_is_waited_for",
        broken: |_| Broken {
            args: "root=/dev/vdz rootwait loglevel=7".into(),
            ..Broken::default()
        },
        until: Some("Waiting for root device"),
        code: Code::RootNotFound,
        says: "still waits for its root on /dev/vdz",
    },
    Case {
        name: "root_has_no_file_system",
        broken: |real| {
            let path = real.path("blank");
            File::create(&path).unwrap().set_len(16 << 20).unwrap();
            Broken { pci: true, drive: Some((path, true)), ..Broken::default() }
        },
        until: None,
        code: Code::RootMountFailed,
        says: "/dev/vda",
    },
    Case {
        name: "root_has_no_init",
        broken: |real| Broken { drive: Some((real.ext4(), true)), ..Broken::default() },
        until: None,
        code: Code::InitMissing,
        says: "No working init found",
    },
    Case {
        name: "init_exits",
        broken: |real| with_init(real, "exit"),
        until: None,
        code: Code::InitExited,
        says: "exited with code 3",
    },
    Case {
        name: "init_eats_memory",
        broken: |real| Broken { memory_mib: Some(96), ..with_init(real, "eat") },
        until: None,
        code: Code::GuestOutOfMemory,
        says: "ran out of memory",
    },
    Case {
        name: "another_init_runs",
        broken: |real| with_init(real, "login"),
        until: Some("login:"),
        code: Code::AgentMissing,
        says: "guest login:",
    },
    Case {
        name: "kernel_is_no_kernel",
        broken: |real| {
            let kernel = real.path("text");
            fs::write(&kernel, "no kernel\n".repeat(100)).unwrap();
            Broken { kernel: Some(kernel), ..Broken::default() }
        },
        until: None,
        code: Code::KernelUnsupported,
        says: "Invalid Elf magic number",
    },
    Case {
        name: "memory_is_too_small",
        broken: |_| Broken { memory_mib: Some(16), ..Broken::default() },
        until: None,
        code: Code::GuestOutOfMemory,
        says: "16 MiB of memory",
    },
    Case {
        name: "drive_is_not_there",
        broken: |real| Broken { drive: Some((real.path("none"), true)), ..Broken::default() },
        until: None,
        code: Code::VmmStartFailed,
        says: "No such file or directory",
    },
    Case {
        name: "field_is_unknown",
        broken: |_| Broken {
            calls: vec![("/vsock", json!({ "guest_cid": 3, "uds_path": "v", "color": "red" }))],
            ..Broken::default()
        },
        until: None,
        code: Code::VmmStartFailed,
        says: "unknown field `color`",
    },
    Case {
        name: "tap_is_not_ours",
        broken: |_| Broken {
            as_nobody: true,
            calls: vec![(
                "/network-interfaces/eth0",
                json!({ "iface_id": "eth0", "host_dev_name": "tap0" }),
            )],
            ..Broken::default()
        },
        until: None,
        code: Code::NetworkFailed,
        says: "Open tap device failed",
    },
    Case {
        name: "kvm_is_not_ours",
        broken: |_| Broken { as_nobody: true, ..Broken::default() },
        until: None,
        code: Code::KvmFailed,
        says: "Permission denied",
    },
    Case {
        name: "init_powers_off",
        broken: |real| with_init(real, "restart"),
        until: None,
        code: Code::GuestShutdown,
        says: "before its agent answered",
    },
];

fn evidence(left: &Left, memory_mib: Option<u32>) -> Evidence {
    Evidence {
        phase: Phase::Booting,
        console_tail: left.console.clone(),
        vmm_log_tail: left.log.clone(),
        exit: left.exit,
        waited: left.exit.is_none().then_some(Duration::from_secs(5)),
        memory_mib: memory_mib.unwrap_or(256),
        boot_needs_bytes: 40 << 20,
    }
}

fn boot(case: &Case) -> Option<(Fault, Left)> {
    let real = Real::at_hand()?;
    let broken = (case.broken)(&real);
    let left = run(&real, &broken, case.until);
    Some((explain(&evidence(&left, broken.memory_mib)), left))
}

/// `cargo test -p aetherium-vmm --test machines -- --ignored each_failure`
#[test]
#[ignore = "boots a dozen guests, each with a patience that a busy machine exceeds"]
fn each_failure_of_the_real_firecracker_is_named() {
    for case in &CASES {
        let Some((fault, left)) = boot(case) else { return };
        let seen = format!("{}: {fault}\n{}\n{}", case.name, left.console, left.log);
        assert_eq!(fault.code, case.code, "{seen}");
        assert!(fault.detail.contains(case.says), "{seen}");
        assert!(!fault.remedy.is_empty(), "{seen}");
    }
}

#[test]
#[ignore = "writes the fixtures anew"]
fn record() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/firecracker");
    fs::create_dir_all(&dir).unwrap();
    for case in &CASES {
        let (fault, left) = boot(case).expect("a real Firecracker");
        println!("{}: {fault}", case.name);
        fs::write(dir.join(format!("{}.console.log", case.name)), left.console).unwrap();
        fs::write(dir.join(format!("{}.vmm.log", case.name)), left.log).unwrap();
    }
}
