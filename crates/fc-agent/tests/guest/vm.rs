//! Guests for the tests: the agent under test as `/init`, a root file system made here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use aetherium_agent_client::{AgentClient, Deadlines, Endpoint, Token};
use aetherium_agent_proto::GuestConfig;
use aetherium_agent_proto::config::{
    Disk as GuestDisk, DiskSelector, GUEST_CONFIG_PATH, Transports,
};
use aetherium_image::cpio::{Entry, segment};
use aetherium_image::{InstalledTemplate, TemplateStore};
use aetherium_model::kernel::KernelFacts;
use aetherium_model::resources::{NetworkMode, Resources};
use aetherium_model::template::KernelFormat;
use aetherium_model::{Name, VmId};
use aetherium_vmm::{
    AgentAddress, Boot, Disk, DriverConfig, GuestKernel, LaunchSpec, Machine, Qemu, Vmm as _,
    VmmExit, VsockChoice, firecracker::plan::TransportChoice,
};
use tempfile::TempDir;

/// Ample for an emulated guest on a busy machine; a test that meets it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
const TOKEN: &str = "correct-horse-battery-staple";
/// The serial numbers by which the guest knows its disks, beside any name or label.
const ROOT_SERIAL: &str = "the-root";
pub(crate) const OVERLAY_SERIAL: &str = "the-overlay";

/// A running guest. Killed, with its files, when dropped.
pub(crate) struct Guest {
    machine: Arc<dyn Machine>,
    pub(crate) client: AgentClient,
    _dir: TempDir,
}

/// What every test's guest is told, to be changed where a test is about it.
pub(crate) fn config() -> GuestConfig {
    GuestConfig {
        token: Some(Token::new(TOKEN).unwrap()),
        root: Some(GuestDisk::ext4(DiskSelector::Serial(ROOT_SERIAL.into()))),
        transports: Transports { vsock: false, tcp: true },
        net: Some(aetherium_agent_proto::config::GuestNet {
            address_cidr: "172.16.0.2/24".parse().unwrap(),
            gateway: Some([172, 16, 0, 1].into()),
            dns: Vec::new(),
            routes: Vec::new(),
        }),
        ..GuestConfig::default()
    }
}

/// The distribution's kernel, as `make test` provides it.
fn kernel() -> GuestKernel {
    GuestKernel {
        image: template().kernel(),
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

impl Guest {
    /// Boots a guest.
    pub(crate) async fn boot(config: &GuestConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = root(dir.path());
        Self::boot_from(dir, config, root, None).await
    }

    /// Boots a guest from a root of its own, which it writes to if it has an overlay. The files are
    /// in `dir`.
    pub(crate) async fn boot_from(
        dir: TempDir,
        config: &GuestConfig,
        root: PathBuf,
        overlay: Option<PathBuf>,
    ) -> Self {
        let disk = |path, read_only, serial: &str| Disk { path, read_only, serial: serial.into() };
        let mut disks = vec![disk(root, true, ROOT_SERIAL)];
        disks.extend(overlay.map(|path| disk(path, false, OVERLAY_SERIAL)));
        let spec = LaunchSpec {
            vm_id: VmId::new(),
            run_dir: dir.path().join("run"),
            resources: Resources { memory_mib: 256.try_into().unwrap(), ..Resources::default() },
            boot: Boot::Kernel { kernel: kernel(), initrd: initramfs(dir.path(), config), disks },
            network: NetworkMode::Isolated,
            vsock: VsockChoice::Off,
            transport: TransportChoice::Auto,
            snapshots: None,
            tuning: Default::default(),
            slot: None,
            volatile: None,
        };
        fs::create_dir(&spec.run_dir).unwrap();
        let driver = DriverConfig {
            data_dir: dir.path().to_owned(),
            cache_dir: dir.path().join("cache"),
            ..DriverConfig::default()
        };
        let machine = Qemu::new(&driver).launch(&spec).await.unwrap();
        let addr = machine.footprint().agent.iter().find_map(|address| match address {
            AgentAddress::Tcp { addr } => Some(*addr),
            _ => None,
        });
        let token = Token::new(TOKEN).unwrap();
        let endpoint = Endpoint::Tcp { addr: addr.expect("QEMU forwards a port"), token };
        let deadlines = Deadlines { dial: PATIENCE, call: PATIENCE, silence: PATIENCE };
        let client = AgentClient::new(vec![endpoint], deadlines);
        Self { machine, client, _dir: dir }
    }

    /// Boots a guest whose agent answers.
    pub(crate) async fn start(config: &GuestConfig) -> Self {
        let guest = Self::boot(config).await;
        guest.answers().await;
        guest
    }

    /// Waits until the agent answers.
    pub(crate) async fn answers(&self) {
        let ready = self.client.wait_ready(PATIENCE).await;
        ready.unwrap_or_else(|error| panic!("{error}\n{}", self.console()));
    }

    pub(crate) fn console(&self) -> String {
        let bytes = fs::read(&self.machine.footprint().console).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the guest has ended its VMM.
    pub(crate) async fn end(&self) -> VmmExit {
        tokio::time::timeout(PATIENCE, self.machine.wait())
            .await
            .unwrap_or_else(|_| panic!("the guest does not end\n{}", self.console()))
    }

    /// Ends the VMM, whatever the guest does.
    pub(crate) async fn kill(self) {
        self.machine.kill(PATIENCE).await.unwrap();
    }
}

fn asset(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-assets").join(name);
    assert!(path.is_file(), "no {}: run `make test`, which provides it", path.display());
    path.canonicalize().unwrap()
}

/// The template that `make test` provides.
fn template() -> InstalledTemplate {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-assets");
    let store = TemplateStore::open(assets.join("data/templates")).unwrap();
    store.get(&"default".parse::<Name>().unwrap()).unwrap()
}

/// The agent under test.
pub(crate) fn program() -> Vec<u8> {
    fs::read(asset("fc-agent")).unwrap()
}

/// The template's modules, this agent, and the guest's configuration.
fn initramfs(dir: &Path, config: &GuestConfig) -> PathBuf {
    let mut archive = fs::read(template().initramfs()).unwrap();
    let json = serde_json::to_vec(config).unwrap();
    archive.extend(segment(&[
        Entry::file("/init", 0o755, program()),
        Entry::file(GUEST_CONFIG_PATH, 0o600, json),
    ]));
    let path = dir.join("initrd");
    fs::write(&path, archive).unwrap();
    path
}

/// A root file system with the tests' one program as `/sbin/init`.
fn root(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    for name in ["sbin", "proc", "sys", "dev", "run", "tmp", "etc"] {
        fs::create_dir_all(tree.join(name)).unwrap();
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/init.c");
    let mut compile = Command::new("cc");
    compile.args(["-static", "-Os", "-w", "-o"]).args([&tree.join("sbin/init"), &source]);
    succeed(&mut compile);
    let image = dir.join("root.ext4");
    succeed(Command::new("mkfs.ext4").args(["-q", "-d"]).args([&tree, &image]).arg("16M"));
    image
}

pub(crate) fn succeed(command: &mut Command) {
    let output = command.output().expect("install gcc, libc6-dev and e2fsprogs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
