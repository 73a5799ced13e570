//! `aetherium host prepare`: whatever happens to it, the image in place is whole.

use crate::world::{AETHERIUM, BOOT, assets, test_template};
use aetherium_agent_client::{AgentClient, Deadlines, Endpoint, ExecSpec, Token, collect};
use aetherium_image::cpio::{Entry, segment};
use aetherium_model::{
    VmId,
    kernel::{KernelFacts, KernelOption},
    resources::{NetworkMode, Resources},
    template::KernelFormat,
};
use aetherium_vmm::{
    AgentAddress, Boot, Disk, DriverConfig, GuestKernel, LaunchSpec, Qemu, Vmm as _, VsockChoice,
    firecracker::plan::TransportChoice,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Instant,
};
use tempfile::TempDir;

const TOKEN: &str = "correct-horse-battery-staple";

/// A directory with a kernel, a root filesystem, and two agents that differ.
struct Host {
    dir: TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { dir: tempfile::Builder::new().prefix("ho").tempdir().unwrap() };
        // All that is looked at of a kernel: what it says of itself, and how it was configured.
        fs::write(host.at("vmlinux"), "\x7fELF Linux version 6.1.0 (gcc)\0").unwrap();
        let config: String = KernelOption::ALL.iter().map(|it| format!("{it}=y\n")).collect();
        fs::write(host.at("config-6.1.0"), config).unwrap();
        let program = fs::read(assets().join("fc-agent")).unwrap();
        for (name, more) in [("agent-a", ""), ("agent-b", "another build")] {
            let content = [&program, more.as_bytes()].concat();
            fs::write(host.at(name), content).unwrap();
            succeed(Command::new("chmod").arg("755").arg(host.at(name)));
        }
        fs::create_dir(host.at("tmp")).unwrap();
        host.make_image("6M");
        host
    }

    /// A system of one program, which is also what boots it.
    fn make_image(&self, size: &str) {
        let tree = self.at("tree");
        for dir in ["sbin", "proc", "sys", "dev", "run", "tmp", "etc", "usr/lib/systemd"] {
            fs::create_dir_all(tree.join(dir)).unwrap();
        }
        fs::write(tree.join("etc/precious"), "kept\n").unwrap();
        // A name is all that is asked of it here.
        fs::write(tree.join("usr/lib/systemd/systemd"), "").unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/host_init.c");
        let program = tree.join("sbin/init");
        succeed(Command::new("cc").args(["-static", "-Os", "-s", "-o"]).args([&program, &source]));
        let image = self.image();
        succeed(
            tool("mkfs.ext4")
                .args(["-q", "-F", "-b", "4096", "-d"])
                .args([&tree, &image])
                .arg(size),
        );
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn image(&self) -> PathBuf {
        self.at("root.ext4")
    }

    fn prepare(&self, agent: &str) -> Command {
        let mut command = Command::new(AETHERIUM);
        command
            .args(["host", "prepare", "--json", "--allow-no-kvm", "--no-probe", "--install-agent"])
            .arg("--kernel")
            .arg(self.at("vmlinux"))
            .arg("--rootfs")
            .arg(self.image())
            .arg("--agent")
            .arg(self.at(agent))
            .arg("--data-dir")
            .arg(self.at("data"))
            .env("TMPDIR", self.at("tmp"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it to its end, which must be well.
    fn prepared(&self, agent: &str) -> Value {
        report(&self.prepare(agent).output().unwrap(), 0)
    }

    /// The digest of the agent inside; `None` without one.
    fn agent_inside(&self) -> Option<String> {
        let out = self.at("dumped");
        let _ = fs::remove_file(&out);
        let dump = format!("dump /usr/local/bin/fc-agent {}", out.display());
        succeed(tool("debugfs").args(["-R", &dump]).arg(self.image()));
        Some(digest(&fs::read(out).ok()?))
    }

    fn assert_whole(&self, image: &Path, when: &str) {
        let checked = tool("e2fsck").arg("-fn").arg(image).output().unwrap();
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(checked.status.success(), "{} {when}: {said}", image.display());
    }

    /// What is beside the image that is no part of it, and what is elsewhere.
    fn leftovers(&self) -> Vec<String> {
        let names = |dir: &Path| -> Vec<String> {
            let entries = fs::read_dir(dir).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let mut left = names(self.dir.path());
        left.retain(|name| name.contains(".prepare-") && !name.ends_with("lock"));
        left.extend(names(&self.at("tmp")));
        left
    }
}

fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn report(output: &Output, code: i32) -> Value {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|it| it["check"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

#[test]
fn a_host_is_prepared_once_and_a_second_run_has_nothing_to_do() {
    let host = Host::new();
    let original = fs::read(host.image()).unwrap();
    let first = host.prepared("agent-a");
    assert_eq!((&first["ready"], &first["changed"]), (&json!(true), &json!(true)), "{first:#}");
    assert_eq!(check(&first, "kernel.bus")["verdict"], "ok");
    let agent = digest(&fs::read(host.at("agent-a")).unwrap());
    assert_eq!(first["agent"]["sha256"], agent);
    assert_eq!(host.agent_inside(), Some(agent.clone()));
    assert_eq!(fs::read(host.at("root.ext4.previous")).unwrap(), original);

    let before = fs::metadata(host.image()).unwrap();
    let second = host.prepared("agent-a");
    assert_eq!((&second["ready"], &second["changed"]), (&json!(true), &json!(false)), "{second:#}");
    let after = fs::metadata(host.image()).unwrap();
    assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));

    // An upgrade, by digest; then what people see.
    host.prepared("agent-b");
    assert_ne!(host.agent_inside(), Some(agent));
    host.assert_whole(&host.image(), "after an upgrade");
    host.assert_whole(&host.at("root.ext4.previous"), "after an upgrade");
    let look = Command::new(AETHERIUM)
        .args(["host", "prepare", "--allow-no-kvm", "--no-probe", "--kernel"])
        .arg(host.at("vmlinux"))
        .arg("--rootfs")
        .arg(host.image())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&look.stdout);
    assert!(look.status.success() && out.contains("✓ rootfs.agent"), "{out}");
    assert!(out.contains("there was nothing to do"), "{out}");
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[test]
fn an_image_grows_by_what_the_agent_needs_and_no_more_with_the_next() {
    let host = Host::new();
    fs::remove_file(host.image()).unwrap();
    host.make_image("3M");
    host.prepared("agent-a");
    let size = || fs::metadata(host.image()).unwrap().len();
    let grown = size();
    assert!((4 << 20..=8 << 20).contains(&grown), "{grown}");
    host.assert_whole(&host.image(), "after it grew");
    host.prepared("agent-b");
    assert_eq!(size(), grown);
    host.assert_whole(&host.image(), "after an upgrade");
}

#[test]
fn a_damaged_image_is_told_with_its_fix_and_left_as_it_is() {
    let host = Host::new();
    let damage = || {
        let file = fs::File::options().write(true).open(host.image()).unwrap();
        // The descriptors of the block groups, in the block behind the superblock's.
        file.write_all_at(&[0xff; 64], 4096).unwrap();
        fs::read(host.image()).unwrap()
    };
    let broken = damage();
    let told = report(&host.prepare("agent-a").output().unwrap(), 3);
    let remedy = check(&told, "rootfs")["remedy"].as_str().unwrap();
    assert!(remedy.contains("e2fsck -f "), "{told:#}");
    assert!(!told["fault"]["evidence"].as_array().unwrap().is_empty(), "{told:#}");
    assert_eq!(fs::read(host.image()).unwrap(), broken);

    // With a copy that was kept, that is the fix; and it is one.
    host.make_image("6M");
    host.prepared("agent-a");
    let broken = damage();
    let told = report(&host.prepare("agent-b").output().unwrap(), 3);
    let remedy = check(&told, "rootfs")["remedy"].as_str().unwrap();
    let copy = remedy.split_once(": ").unwrap().1;
    assert!(copy.starts_with("cp ") && copy.contains("root.ext4.previous"), "{told:#}");
    assert_eq!(fs::read(host.image()).unwrap(), broken);
    succeed(Command::new("sh").args(["-c", copy]));
    host.prepared("agent-b");
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[test]
fn runs_at_once_take_turns_and_one_that_may_not_wait_says_try_again() {
    let host = Host::new();
    let children: Vec<Child> =
        (0..4).map(|n| host.prepare(["agent-a", "agent-b"][n % 2]).spawn().unwrap()).collect();
    let changed: Vec<bool> = children
        .into_iter()
        .map(|child| report(&child.wait_with_output().unwrap(), 0)["changed"] == true)
        .collect();
    assert!(changed.contains(&true), "{changed:?}");
    host.assert_whole(&host.image(), "after four at once");
    assert_eq!(host.leftovers(), Vec::<String>::new());

    let lock = fs::File::open(host.at(".root.ext4.prepare-lock")).unwrap();
    lock.lock().unwrap();
    let told = report(&host.prepare("agent-a").args(["--wait", "50ms"]).output().unwrap(), 75);
    assert!(check(&told, "rootfs")["found"].as_str().unwrap().contains("another process"));
}

/// Fifty runs are killed at random moments of the time that a whole one takes.
#[tokio::test]
async fn killed_at_any_moment_it_leaves_a_whole_image_and_the_next_run_finishes() {
    let host = Host::new();
    let digests = ["agent-a", "agent-b"].map(|name| digest(&fs::read(host.at(name)).unwrap()));
    host.prepared("agent-a");
    let began = Instant::now();
    host.prepared("agent-b");
    let whole = began.elapsed();

    let (mut killed, mut with_leftovers, mut inside) = (0, 0, 1);
    while killed < 50 {
        let after = whole.mul_f64(rand::random_range(0.0..1.0));
        let other = 1 - inside;
        let mut child = host.prepare(["agent-a", "agent-b"][other]).spawn().unwrap();
        tokio::time::sleep(after).await;
        child.kill().unwrap();
        let status = child.wait().unwrap();
        killed += usize::from(status.code().is_none());
        with_leftovers += usize::from(!host.leftovers().is_empty());
        let when = format!("killed after {after:?} of {whole:?}");
        host.assert_whole(&host.image(), &when);
        host.assert_whole(&host.at("root.ext4.previous"), &when);
        let found = host.agent_inside().unwrap();
        inside = digests.iter().position(|it| *it == found).expect("one agent or the other, whole");
    }
    assert!(with_leftovers > 5, "only {with_leftovers} of {killed} killed runs left anything");
    println!("{killed} killed, {with_leftovers} left something, a whole run takes {whole:?}");

    host.prepared("agent-b");
    assert_eq!(host.agent_inside().as_ref(), Some(&digests[1]));
    assert_eq!(host.leftovers(), Vec::<String>::new());
    boots_and_its_agent_answers(&host).await;
}

/// The image's own init starts the agent, which learns its token from a disk.
async fn boots_and_its_agent_answers(host: &Host) {
    let spec = LaunchSpec {
        vm_id: VmId::new(),
        run_dir: host.at("run"),
        resources: Resources { memory_mib: 256.try_into().unwrap(), ..Resources::default() },
        boot: Boot::Kernel {
            kernel: kernel(),
            initrd: initramfs(host),
            disks: vec![
                Disk { path: host.image(), read_only: true, serial: "root".into() },
                Disk { path: config_disk(host), read_only: true, serial: "config".into() },
            ],
        },
        network: NetworkMode::Isolated,
        vsock: VsockChoice::Off,
        transport: TransportChoice::Auto,
        tuning: Default::default(),
        snapshots: None,
        slot: None,
        volatile: None,
    };
    fs::create_dir(&spec.run_dir).unwrap();
    let driver = DriverConfig {
        data_dir: host.dir.path().to_owned(),
        cache_dir: host.at("cache"),
        ..DriverConfig::default()
    };
    let machine = Qemu::new(&driver).launch(&spec).await.unwrap();
    let console =
        || String::from_utf8_lossy(&fs::read(&machine.footprint().console).unwrap()).into_owned();
    let addr = machine.footprint().agent.iter().find_map(|address| match address {
        AgentAddress::Tcp { addr } => Some(*addr),
        _ => None,
    });
    let token = Token::new(TOKEN).unwrap();
    let endpoint = Endpoint::Tcp { addr: addr.expect("QEMU forwards a port"), token };
    let deadlines = Deadlines { dial: BOOT, call: BOOT, silence: BOOT };
    let client = AgentClient::new(vec![endpoint], deadlines);
    let ready = client.wait_ready(BOOT).await;
    let ready = ready.unwrap_or_else(|error| panic!("{error}\n{}", console()));
    assert!(!ready.is_init, "{ready:?}");
    assert!(console().contains("stage=listening"), "{}", console());
    let process =
        client.exec(ExecSpec::new(["/usr/local/bin/fc-agent", "--version"])).await.unwrap();
    let output = collect(process, 1024).await.unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("fc-agent "));
    machine.kill(BOOT).await.unwrap();
}

/// What only this guest may know, as docs/host-prepare.md says.
fn config_disk(host: &Host) -> PathBuf {
    let (dir, image) = (host.at("config-disk"), host.at("config.ext4"));
    fs::create_dir(&dir).unwrap();
    let config = json!({
        "token": TOKEN,
        "net": { "address_cidr": "172.16.0.2/24", "gateway": "172.16.0.1" },
    });
    fs::write(dir.join("guest.json"), config.to_string()).unwrap();
    succeed(
        tool("mkfs.ext4")
            .args(["-q", "-L", "aetherium-config", "-O", "^has_journal", "-d"])
            .args([&dir, &image])
            .arg("1M"),
    );
    image
}

/// The distribution's kernel, as `make test` provides it.
fn kernel() -> GuestKernel {
    GuestKernel {
        image: test_template().kernel(),
        elf: None,
        facts: KernelFacts {
            release: "of the host's distribution".to_owned(),
            format: KernelFormat::BzImage,
            needs_bytes: 0,
            config: None,
        },
        extra_args: Vec::new(),
        modules: Vec::new(),
        cpu_template: None,
    }
}

/// The kernel's modules, and in the agent's place a program that only finds the root.
fn initramfs(host: &Host) -> PathBuf {
    let mut archive = fs::read(test_template().initramfs()).unwrap();
    let init = fs::read(host.at("tree/sbin/init")).unwrap();
    archive.extend(segment(&[Entry::file("/init", 0o755, init)]));
    let path = host.at("initrd");
    fs::write(&path, archive).unwrap();
    path
}
