//! The QEMU driver: KVM where a probe guest has booted with it, else software emulation.
//!
//! ```text
//! launch: vsock helper (if any) ─► listen on the monitor's socket ─► QEMU inherits it
//!            └ fails: TCP alone            └ greeting: QEMU is ready   └ info usernet: the agent's port
//! ```
//! A launch that fails or is given up leaves no process behind.

mod command;
mod machine;
mod monitor;
mod preflight;
mod probe;
mod program;
mod vsock;

use crate::{
    Accelerator, AgentAddress, Boot, DriverConfig, Footprint, LaunchSpec, Machine, ProbeGuest,
    Role, Vmm, VmmError, VmmExit, VsockChoice,
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
use command::Plan;
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
        if spec.vsock == VsockChoice::Off {
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

    async fn launch(&self, spec: &LaunchSpec) -> Result<Arc<dyn Machine>, VmmError> {
        let Boot::Kernel { kernel, initrd, disks } = &spec.boot else {
            return Err(VmmError::WrongBoot { driver: DriverKind::Qemu, boot: "a plain process" });
        };
        spec.check_paths()?;
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
            kernel: &kernel.image,
            extra_args: &kernel.extra_args,
            initrd,
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
        };
        let main = spawn.start()?;
        drop(listener);
        let forward = ready(&main, &qemu.path, &monitor, &vmm_log).await?;
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
            memory_mib: spec.resources.memory_mib.get(),
            boot_needs_bytes,
        };
        Ok(Arc::new(QemuMachine::new(Supervised::new(footprint, main, helpers))))
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
async fn ready(
    qemu: &Held,
    program: &Path,
    socket: &Path,
    log: &Path,
) -> Result<SocketAddr, VmmError> {
    let ask = async {
        let mut monitor = Monitor::connect(socket).await?;
        let info = monitor.human("info usernet").await?;
        usernet::forwarded(&info, &GuestNet::COMMON, AGENT_PORT).ok_or_else(|| VmmError::Control {
            command: "info usernet".to_owned(),
            answer: info.chars().take(400).collect(),
        })
    };
    let early = async |exit: VmmExit| VmmError::EndedEarly {
        program: program.to_owned(),
        exit,
        log: tail_lines(log).await,
    };
    match timeout(READY_DEADLINE, ask).await {
        Ok(Ok(forward)) => Ok(forward),
        // A monitor that hangs up is a QEMU that is ending; its own words explain more.
        Ok(Err(error)) => match timeout(Duration::from_secs(1), qemu.ended()).await {
            Ok(exit) => Err(early(exit).await),
            Err(_) => Err(error),
        },
        Err(_) => {
            let log = tail_lines(log).await;
            Err(VmmError::NotReady { program: program.to_owned(), waited: READY_DEADLINE, log })
        }
    }
}
