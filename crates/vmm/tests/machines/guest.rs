//! Guests for the tests: a kernel, an initramfs made here, and where their files go.

use aetherium_model::{
    VmId,
    kernel::KernelFacts,
    resources::{DriverKind, NetworkMode, Resources},
    template::KernelFormat,
    tuning::Tuning,
};
use aetherium_vmm::{
    AgentAddress, Boot, DriverConfig, Footprint, GuestKernel, LaunchSpec, Machine, ProcessRef,
    Qemu, Vmm, VmmExit, VsockChoice, firecracker::plan::TransportChoice, strays,
};
use std::{
    fs,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;

/// Ample for an emulated guest on a busy machine; a test that meets it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What a distribution's kernel needs to begin: more than 16 MiB, and less than the guests here have.
const KERNEL_NEEDS_BYTES: u64 = 48 << 20;

/// The kernel that QEMU's guests boot: `AETHERIUM_TEST_KERNEL` if that is a bzImage, else what
/// `make test` provides.
pub(crate) fn kernel() -> PathBuf {
    let provided = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-assets/vmlinuz");
    let named = std::env::var_os("AETHERIUM_TEST_KERNEL").map(PathBuf::from);
    // An uncompressed one is for Firecracker.
    let path = named.filter(|path| !is_elf(path)).unwrap_or(provided);
    assert!(
        path.is_file(),
        "no kernel at {}: run `make test`, which provides one, or set AETHERIUM_TEST_KERNEL to a \
         bzImage",
        path.display()
    );
    path
}

/// Whether it is an uncompressed kernel.
pub(crate) fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && magic == *b"\x7fELF"
}

/// The program that gives QEMU's guests a virtio socket.
pub(crate) fn vsock_helper() -> PathBuf {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-assets");
    let path = assets.join("tools/bin/vhost-device-vsock");
    assert!(path.is_file(), "no helper at {}: run `make test`, which installs it", path.display());
    path
}

/// A directory for one test's VMs, and a driver.
pub(crate) struct Host {
    dir: TempDir,
    pub(crate) config: DriverConfig,
}

impl Host {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = DriverConfig {
            data_dir: dir.path().to_owned(),
            cache_dir: dir.path().join("cache"),
            vsock_helper: Some("/nonexistent".into()),
            ..DriverConfig::default()
        };
        Self { dir, config }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn qemu(&self) -> Qemu {
        Qemu::new(&self.config)
    }

    /// A guest with the tests' init, told how to behave.
    pub(crate) fn spec(&self, behave: &str) -> LaunchSpec {
        let initrd = self.path().join("initrd");
        fs::write(&initrd, archive(&[("init", &init(self.path()))])).unwrap();
        self.spec_with(behave, initrd)
    }

    /// A guest with another initramfs.
    pub(crate) fn spec_with(&self, behave: &str, initrd: PathBuf) -> LaunchSpec {
        self.spec_of(Boot::Kernel {
            kernel: GuestKernel {
                image: kernel(),
                elf: None,
                facts: KernelFacts {
                    release: "of the host's distribution".to_owned(),
                    format: KernelFormat::BzImage,
                    needs_bytes: KERNEL_NEEDS_BYTES,
                    config: None,
                },
                extra_args: format!("behave={behave}").split(' ').map(str::to_owned).collect(),
                modules: Vec::new(),
                cpu_template: None,
            },
            initrd,
            disks: Vec::new(),
        })
    }

    /// A VM of any kind, with a run directory of its own.
    pub(crate) fn spec_of(&self, boot: Boot) -> LaunchSpec {
        let vm_id = VmId::new();
        let run_dir = self.path().join(vm_id.to_string());
        fs::create_dir(&run_dir).unwrap();
        let memory_mib = 256.try_into().unwrap();
        LaunchSpec {
            tuning: Tuning::default(),
            vm_id,
            run_dir,
            resources: Resources { memory_mib, ..Resources::default() },
            boot,
            network: NetworkMode::Isolated,
            vsock: VsockChoice::Auto,
            transport: TransportChoice::Auto,
            snapshots: None,
            slot: None,
            volatile: None,
        }
    }

    /// Launches a guest of the tests' init.
    pub(crate) async fn launch(&self, behave: &str) -> Arc<dyn Machine> {
        self.qemu().launch(&self.spec(behave)).await.unwrap()
    }

    /// The processes that carry the mark of a VM below this directory.
    pub(crate) fn marked(&self) -> Vec<ProcessRef> {
        strays(self.path()).unwrap().into_iter().flat_map(|it| it.processes).collect()
    }
}

/// Whatever a failed test left is not left running.
impl Drop for Host {
    fn drop(&mut self) {
        for process in self.marked() {
            let pid = rustix::process::Pid::from_raw(process.pid.cast_signed()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// The tests' init, compiled.
pub(crate) fn init(dir: &Path) -> Vec<u8> {
    let binary = dir.join("init");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machines/init.c");
    let compiler = Command::new("cc")
        .args(["-static", "-Os", "-w", "-o"])
        .args([&binary, &source])
        .output()
        .expect("a C compiler: install gcc and libc6-dev");
    assert!(compiler.status.success(), "{}", String::from_utf8_lossy(&compiler.stderr));
    fs::read(binary).unwrap()
}

/// A cpio archive in the `newc` format that Linux unpacks as an initramfs, with a console and these
/// executable files.
pub(crate) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for dir in ["dev", "proc", "sys", "run", "aetherium"] {
        entry(&mut out, dir, 0o40755, &[], (0, 0));
    }
    entry(&mut out, "dev/console", 0o20600, &[], (5, 1));
    for (name, content) in files {
        entry(&mut out, name, 0o100_755, content, (0, 0));
    }
    entry(&mut out, "TRAILER!!!", 0, &[], (0, 0));
    out
}

fn entry(out: &mut Vec<u8>, name: &str, mode: u32, content: &[u8], device: (u32, u32)) {
    let inode = u32::try_from(out.len()).unwrap();
    let sizes = (u32::try_from(content.len()).unwrap(), u32::try_from(name.len()).unwrap() + 1);
    let fields = [inode, mode, 0, 0, 1, 0, sizes.0, 0, 0, device.0, device.1, sizes.1, 0];
    out.extend(b"070701");
    for field in fields {
        out.extend(format!("{field:08x}").into_bytes());
    }
    out.extend(name.bytes().chain([0]));
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(content);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Waits for the end of a guest that ends by itself.
pub(crate) async fn end_of(machine: &dyn Machine) -> VmmExit {
    tokio::time::timeout(PATIENCE, machine.wait()).await.expect("the guest ends by itself")
}

/// The footprint as a later life of the host process reads it from the journal.
pub(crate) fn from_journal(footprint: &Footprint) -> Footprint {
    serde_json::from_str(&serde_json::to_string(footprint).unwrap()).unwrap()
}

/// The host's end of the agent's TCP port.
pub(crate) fn tcp(footprint: &Footprint) -> SocketAddr {
    let found = footprint.agent.iter().find_map(|address| match address {
        AgentAddress::Tcp { addr } => Some(*addr),
        _ => None,
    });
    found.expect("a QEMU guest is reachable over TCP")
}

/// Whether a process with that number exists, be it a zombie.
pub(crate) fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

pub(crate) const QEMU: DriverKind = DriverKind::Qemu;
