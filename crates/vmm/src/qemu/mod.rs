//! The QEMU driver: KVM where a probe guest has booted with it, else software emulation.
//!
//! ```text
//! launch: vsock helper (if any) ─► listen on the monitor's socket ─► QEMU inherits it
//!            └ fails: TCP alone            └ greeting: QEMU is ready   └ info usernet: the agent's port
//! restore: the same with `-incoming defer` ─► the state over the monitor ─► paused
//! ```
//! A launch that fails or is given up leaves no process behind.

mod command;
mod machine;
mod monitor;
mod preflight;
mod probe;
mod program;
mod snapshot;
mod vsock;

use crate::{
    Accelerator, AgentAddress, Boot, DriverConfig, Footprint, LaunchSpec, Machine, ProbeGuest,
    Role, SnapshotFiles, SnapshotVmm, Vmm, VmmError, VsockChoice,
    diagnose::tail_lines,
    held::Held,
    kvm::{self, Kvm},
    needs::boot_needs_bytes,
    spawn::{Spawn, check_socket_path, find_program},
    supervise::{Supervised, remove_if_there},
};
use aetherium_agent_proto::AGENT_PORT;
use aetherium_model::{
    finding::Finding,
    resources::{DriverKind, VirtioTransport},
};
use aetherium_net::{GuestNet, usernet};
use async_trait::async_trait;
use command::{Plan, Start};
use machine::QemuMachine;
use monitor::Monitor;
use program::Program;
use std::{
    net::SocketAddr,
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;

/// How long QEMU may take until its monitor has told the agent's port.
const READY_DEADLINE: Duration = Duration::from_secs(15);
/// How long a QEMU that hung up may take to end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The QEMU driver.
pub struct Qemu {
    config: DriverConfig,
    program: Program,
    kvm: Kvm,
}

impl Qemu {
    /// A driver that looks for its programs where `config` says.
    pub fn new(config: &DriverConfig) -> Self {
        Self {
            program: Program::new(config.qemu.clone()),
            kvm: Kvm::new(&config.cache_dir),
            config: config.clone(),
        }
    }

    fn vsock_helper(&self) -> Option<PathBuf> {
        find_program(self.config.vsock_helper.as_deref(), vsock::PROGRAM)
    }

    /// Starts the vsock helper; a VM does without one rather than fail.
    async fn start_vsock(&self, spec: &LaunchSpec, log: &Path) -> Option<(Held, vsock::Sockets)> {
        // What QEMU cannot save it must not get.
        if spec.vsock == VsockChoice::Off || spec.snapshots.is_some() {
            return None;
        }
        let program = self.vsock_helper()?;
        let sockets = vsock::Sockets::within(&spec.run_dir);
        match vsock::start(&program, spec.vm_id, &spec.run_dir, &sockets, log).await {
            Ok(helper) => Some((helper, sockets)),
            Err(error) => {
                tracing::warn!(vm = %spec.vm_id, %error, "no vsock for this VM: TCP alone");
                for socket in [&sockets.uds, &sockets.device] {
                    if let Err(error) = remove_if_there(socket) {
                        tracing::warn!(vm = %spec.vm_id, %error, "a socket is left behind");
                    }
                }
                None
            }
        }
    }

    /// Starts a guest from its kernel, or from a snapshot; it is paused then.
    async fn start(
        &self,
        spec: &LaunchSpec,
        from: Option<&SnapshotFiles>,
    ) -> Result<QemuMachine, VmmError> {
        let Boot::Kernel { kernel, initrd, disks } = &spec.boot else {
            return Err(VmmError::WrongBoot { driver: DriverKind::Qemu, boot: "a plain process" });
        };
        spec.check_paths()?;
        snapshot::refuse_unready(spec)?;
        spec.check_tuning(DriverKind::Qemu)?;
        let qemu = self.program.info().await?;
        let console = spec.run_dir.join("console.log");
        let vmm_log = spec.run_dir.join("vmm.log");
        let monitor = spec.run_dir.join("qmp.sock");
        check_socket_path(&spec.run_dir.join("vsock.sock"))?;
        for socket in [&monitor, &spec.run_dir.join("vsock.sock"), &spec.run_dir.join("vhost.sock")]
        {
            remove_if_there(socket)?;
        }
        drop(crate::spawn::open_log(&console)?);
        let boot_needs_bytes = boot_needs_bytes(kernel, initrd)?;
        let (accelerator, accelerator_reason) = accelerator(&self.kvm, &kernel.image);

        let (helper, vsock) = self.start_vsock(spec, &vmm_log).await.unzip();
        let listener = UnixListener::bind(&monitor).map_err(VmmError::io("listen on", &monitor))?;
        let name = spec.vm_id.to_string();
        let plan = Plan {
            name: &name,
            accelerator,
            sandbox: qemu.sandbox,
            vcpus: spec.resources.vcpus,
            memory: spec.resources.memory_mib,
            balloon: true,
            start: match from {
                None => {
                    Start::Kernel { image: &kernel.image, initrd, extra_args: &kernel.extra_args }
                }
                Some(_) => Start::State,
            },
            disks,
            console: &console,
            network: Some(spec.network),
            monitor: Some(listener.as_raw_fd()),
            vsock: vsock.as_ref().map(|sockets| sockets.device.as_path()),
        };
        let spawn = Spawn {
            role: Role::Vmm,
            vm_id: spec.vm_id,
            run_dir: &spec.run_dir,
            program: &qemu.path,
            args: plan.args()?,
            log: &vmm_log,
            stdout: None,
            inherit: Some(listener.as_fd()),
            bind: None,
        };
        let main = spawn.start()?;
        drop(listener);
        let started = Started { qemu: &main, program: &qemu.path, log: &vmm_log };
        let forward = started.within(READY_DEADLINE, ready(&monitor)).await?;
        if let Some(files) = from {
            started.within(snapshot::DEADLINE, snapshot::load(&monitor, files)).await?;
        }
        if let Some(mib) = spec.tuning.balloon_mib.filter(|mib| *mib > 0) {
            machine::set_balloon(&monitor, spec.resources.memory_mib.get(), mib).await?;
        }

        let mut agent = vec![AgentAddress::Tcp { addr: forward }];
        let mut sockets = vec![monitor.clone()];
        if let Some(vsock) = vsock {
            agent.insert(
                0,
                AgentAddress::Vsock { uds: vsock.uds.clone(), port: u32::from(AGENT_PORT) },
            );
            sockets.extend([vsock.uds, vsock.device]);
        }
        let (main, helpers) = (main.kept(), helper.map(Held::kept).into_iter().collect::<Vec<_>>());
        let footprint = Footprint {
            vm_id: spec.vm_id,
            driver: DriverKind::Qemu,
            accelerator,
            accelerator_reason,
            processes: std::iter::once(&main).chain(&helpers).map(Held::who).collect(),
            agent,
            console,
            vmm_log,
            sockets,
            control: Some(monitor),
            transport: Some(VirtioTransport::Pci),
            jail: None,
            volatile: spec.volatile.clone(),
            memory_mib: spec.resources.memory_mib.get(),
            boot_needs_bytes,
        };
        Ok(QemuMachine::new(Supervised::new(footprint, main, helpers)))
    }
}

#[async_trait]
impl Vmm for Qemu {
    fn kind(&self) -> DriverKind {
        DriverKind::Qemu
    }

    async fn preflight(&self) -> Vec<Finding> {
        preflight::run(&self.config, &self.program, &self.kvm).await
    }

    async fn prepare(&self, guest: &ProbeGuest) -> Finding {
        match self.program.info().await {
            Ok(qemu) => self.kvm.learn(&qemu, guest).await,
            Err(error) => kvm::unprobed(&error.to_string()),
        }
    }

    fn accelerator(&self, kernel: &Path) -> Accelerator {
        accelerator(&self.kvm, kernel).0
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Arc<dyn Machine>, VmmError> {
        Ok(Arc::new(self.start(spec, None).await?))
    }

    async fn snapshots(&self, accelerator: Accelerator) -> Result<SnapshotVmm, VmmError> {
        let qemu = self.program.info().await?;
        Ok(SnapshotVmm {
            driver: DriverKind::Qemu,
            format: qemu.version.to_string(),
            version: qemu.version_text,
            machine: Some(self.program.machine().await?),
            cpu: match accelerator {
                Accelerator::Kvm => kvm::host_cpu(),
                Accelerator::Tcg | Accelerator::None => command::EMULATED_CPU.to_owned(),
            },
            accelerator,
        })
    }

    async fn restore(
        &self,
        spec: &LaunchSpec,
        files: &SnapshotFiles,
    ) -> Result<Arc<dyn Machine>, VmmError> {
        Ok(Arc::new(self.start(spec, Some(files)).await?))
    }

    async fn adopt(&self, footprint: Footprint) -> Result<Option<Arc<dyn Machine>>, VmmError> {
        if footprint.driver != DriverKind::Qemu {
            let (theirs, ours) = (footprint.driver, DriverKind::Qemu);
            return Err(VmmError::WrongDriver { theirs, ours });
        }
        let adopted = Supervised::adopt(footprint).await?;
        Ok(adopted.map(|it| Arc::new(QemuMachine::new(it)) as Arc<dyn Machine>))
    }
}

/// How to run a guest with this kernel, and why.
fn accelerator(kvm: &Kvm, kernel: &Path) -> (Accelerator, String) {
    match kvm.verdict_for(kernel) {
        Some(verdict) if verdict.runs => (Accelerator::Kvm, verdict.reason),
        Some(verdict) => (Accelerator::Tcg, verdict.reason),
        None => (Accelerator::Tcg, "KVM was not probed with this kernel".to_owned()),
    }
}

/// Waits until QEMU is ready, and learns the host's end of the agent's port from it.
async fn ready(socket: &Path) -> Result<SocketAddr, VmmError> {
    let mut monitor = Monitor::connect(socket).await?;
    let info = monitor.human("info usernet").await?;
    usernet::forwarded(&info, &GuestNet::COMMON, AGENT_PORT).ok_or_else(|| VmmError::Control {
        command: "info usernet".to_owned(),
        answer: info.chars().take(400).collect(),
    })
}

/// A QEMU that has been started and has not told yet that it runs.
struct Started<'a> {
    qemu: &'a Held,
    program: &'a Path,
    log: &'a Path,
}

impl Started<'_> {
    /// Waits for what its monitor says; a monitor that hangs up is a QEMU that is ending, and its own
    /// words explain more.
    async fn within<T>(
        &self,
        deadline: Duration,
        asked: impl Future<Output = Result<T, VmmError>>,
    ) -> Result<T, VmmError> {
        let program = self.program.to_owned();
        let error = match timeout(deadline, asked).await {
            Ok(Ok(told)) => return Ok(told),
            Ok(Err(error)) => error,
            Err(_) => {
                let log = tail_lines(self.log).await;
                return Err(VmmError::NotReady { program, waited: deadline, log });
            }
        };
        match timeout(LAST_WORDS, self.qemu.ended()).await {
            Ok(exit) => {
                Err(VmmError::EndedEarly { program, exit, log: tail_lines(self.log).await })
            }
            Err(_) => Err(error),
        }
    }
}
