//! The process driver: the agent as a plain process of the host. It isolates nothing; it is for
//! tests and demonstrations, and is never chosen unless asked for by name.

use crate::{
    Accelerator, AgentAddress, Boot, DriverConfig, Footprint, LaunchSpec, Machine, ProbeGuest,
    Role, Vmm, VmmError, host,
    spawn::{Spawn, check_socket_path, find_program},
    supervise::{Supervised, remove_if_there},
};
use aetherium_model::{finding::Finding, resources::DriverKind};
use async_trait::async_trait;
use std::{ffi::OsString, path::Path, sync::Arc};

const REMEDY: &str = "build the agent, or say where its binary is";

/// The process driver.
pub struct AgentProcess {
    config: DriverConfig,
}

impl AgentProcess {
    /// A driver whose preflight looks for the agent where `config` says.
    pub fn new(config: &DriverConfig) -> Self {
        Self { config: config.clone() }
    }

    fn agent(&self) -> Finding {
        let (check, why) = ("process.agent", "the agent is all that this driver runs");
        match find_program(self.config.agent.as_deref(), "fc-agent") {
            Some(path) => Finding::ok(check, path.display().to_string(), why),
            None => {
                let wanted = self.config.agent.clone().unwrap_or_else(|| "fc-agent".into());
                Finding::fail(check, format!("{} not found", wanted.display()), why, REMEDY)
            }
        }
    }
}

#[async_trait]
impl Vmm for AgentProcess {
    fn kind(&self) -> DriverKind {
        DriverKind::Process
    }

    async fn preflight(&self) -> Vec<Finding> {
        let isolation = Finding::warn(
            "process.isolation",
            "none: commands run as this user on this host",
            "what runs in a VM cannot reach the host",
            "use the qemu driver for anything untrusted",
        );
        vec![self.agent(), isolation, host::memory(), host::disk(&self.config.data_dir)]
    }

    async fn prepare(&self, _guest: &ProbeGuest) -> Finding {
        Finding::ok("kvm.probe", "the process driver runs no guest", "there is nothing to speed up")
    }

    fn accelerator(&self, _kernel: &Path) -> Accelerator {
        Accelerator::None
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Arc<dyn Machine>, VmmError> {
        spec.check_tuning(DriverKind::Process)?;
        let Boot::Agent { binary, token_file } = &spec.boot else {
            return Err(VmmError::WrongBoot { driver: DriverKind::Process, boot: "a kernel" });
        };
        spec.check_paths()?;
        let program = find_program(Some(binary), "fc-agent")
            .ok_or_else(|| VmmError::ProgramMissing { program: binary.clone(), remedy: REMEDY })?;
        let socket = spec.run_dir.join("agent.sock");
        check_socket_path(&socket)?;
        remove_if_there(&socket)?;
        let console = spec.run_dir.join("console.log");
        let mut listen = OsString::from("unix:");
        listen.push(&socket);
        let args = vec![
            "--listen".into(),
            listen,
            "--token-file".into(),
            token_file.clone().into_os_string(),
        ];
        let spawn = Spawn {
            role: Role::Agent,
            vm_id: spec.vm_id,
            run_dir: &spec.run_dir,
            program: &program,
            args,
            log: &console,
            stdout: None,
            inherit: None,
            bind: None,
        };
        let main = spawn.start()?.kept();
        let footprint = Footprint {
            vm_id: spec.vm_id,
            driver: DriverKind::Process,
            accelerator: Accelerator::None,
            accelerator_reason: "the agent is a plain process".to_owned(),
            processes: vec![main.who()],
            agent: vec![AgentAddress::Unix { path: socket.clone() }],
            vmm_log: console.clone(),
            console,
            sockets: vec![socket],
            control: None,
            transport: None,
            jail: None,
            volatile: spec.volatile.clone(),
            memory_mib: 0,
            boot_needs_bytes: 0,
        };
        Ok(Arc::new(Supervised::new(footprint, main, Vec::new())))
    }

    async fn adopt(&self, footprint: Footprint) -> Result<Option<Arc<dyn Machine>>, VmmError> {
        if footprint.driver != DriverKind::Process {
            let (theirs, ours) = (footprint.driver, DriverKind::Process);
            return Err(VmmError::WrongDriver { theirs, ours });
        }
        let adopted = Supervised::adopt(footprint).await?;
        Ok(adopted.map(|it| Arc::new(it) as Arc<dyn Machine>))
    }
}
