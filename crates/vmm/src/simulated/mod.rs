//! The simulated driver: VMs that are times and nothing else, so that a worker can have a thousand of
//! them, and one process a thousand workers. For benchmarks of what is around VMs; never chosen unless
//! asked for by name.
//!
//! ```text
//! Simulated ── launch ──► Modelled ── wait, kill          model.rs    how long what takes
//!     │                      │                            guest.rs    one VM, and its agent
//!     └─ Switchboard ────► Guest ◄── CONNECT <number>     switchboard.rs
//! ```
//! A guest is reached as Firecracker's are, by `CONNECT <port>` to a Unix socket, and what answers is an
//! agent that speaks the contract of every other: whoever uses the VM cannot tell. But there is one socket
//! for all guests, whose number is the port, so that a VM at rest has neither process, nor file, nor
//! socket. A command takes its time and ends well; nothing is run, and nothing outlives this process.

mod guest;
mod model;
mod switchboard;

pub use model::{Model, Spread};

use crate::{
    Accelerator, AgentAddress, Boot, Footprint, LaunchSpec, Machine, ProbeGuest, Vmm, VmmError,
    VmmExit,
};
use aetherium_model::{finding::Finding, resources::DriverKind};
use async_trait::async_trait;
use guest::Guest;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use switchboard::Switchboard;
use tokio::{sync::OnceCell, time::sleep};

/// The simulated driver.
pub struct Simulated {
    model: Model,
    socket: PathBuf,
    /// Opened for the first VM.
    board: OnceCell<Switchboard>,
}

impl Simulated {
    /// A driver whose VMs follow `model`, and are reached over `socket`.
    pub fn new(model: Model, socket: PathBuf) -> Self {
        Self { model, socket, board: OnceCell::new() }
    }
}

#[async_trait]
impl Vmm for Simulated {
    fn kind(&self) -> DriverKind {
        DriverKind::Simulated
    }

    async fn preflight(&self) -> Vec<Finding> {
        vec![Finding::warn(
            "simulated.guests",
            "none: VMs are modelled, and no command is run",
            "what runs in a VM does what it is told",
            "use another driver for anything but benchmarks",
        )]
    }

    async fn prepare(&self, _guest: &ProbeGuest) -> Finding {
        Finding::ok(
            "kvm.probe",
            "the simulated driver runs no guest",
            "there is nothing to speed up",
        )
    }

    fn accelerator(&self, _kernel: &Path) -> Accelerator {
        Accelerator::None
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Arc<dyn Machine>, VmmError> {
        spec.check_tuning(DriverKind::Simulated)?;
        let Boot::Nothing = spec.boot else {
            let boot = "something that would run";
            return Err(VmmError::WrongBoot { driver: DriverKind::Simulated, boot });
        };
        let opened = self.board.get_or_try_init(|| async { Switchboard::open(&self.socket) });
        let board = opened.await?;
        let number = board.next_number();
        let times = self.model.times(number);
        sleep(times.launch).await;
        let guest = Arc::new(Guest::booting(times));
        board.enter(number, &guest);
        let footprint = Footprint {
            vm_id: spec.vm_id,
            driver: DriverKind::Simulated,
            accelerator: Accelerator::None,
            accelerator_reason: "the guest is modelled".to_owned(),
            processes: Vec::new(),
            agent: vec![AgentAddress::Vsock { uds: self.socket.clone(), port: number }],
            console: spec.run_dir.join("console.log"),
            vmm_log: spec.run_dir.join("vmm.log"),
            sockets: Vec::new(),
            control: None,
            transport: None,
            jail: None,
            volatile: spec.volatile.clone(),
            memory_mib: 0,
            boot_needs_bytes: 0,
        };
        Ok(Arc::new(Modelled { footprint, guest }))
    }

    /// A VM ends with the process that models it.
    async fn adopt(&self, footprint: Footprint) -> Result<Option<Arc<dyn Machine>>, VmmError> {
        match footprint.driver {
            DriverKind::Simulated => Ok(None),
            theirs => Err(VmmError::WrongDriver { theirs, ours: DriverKind::Simulated }),
        }
    }
}

/// A modelled VM.
struct Modelled {
    footprint: Footprint,
    guest: Arc<Guest>,
}

#[async_trait]
impl Machine for Modelled {
    fn footprint(&self) -> &Footprint {
        &self.footprint
    }

    async fn wait(&self) -> VmmExit {
        self.guest.ended().await
    }

    async fn kill(&self, _deadline: Duration) -> Result<(), VmmError> {
        self.guest.end(VmmExit::Signal(rustix::process::Signal::KILL.as_raw()));
        Ok(())
    }
}
