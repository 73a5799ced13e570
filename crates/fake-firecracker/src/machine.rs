//! The microVM's state: what was configured, whether it runs, and what each call does to it.
//!
//! Owns the configuration, the open files behind it, the guest and the vsock device. Calls come one
//! after the other, as to Firecracker's one VMM thread.

mod devices;
mod life;

use crate::{
    args::Serve,
    body::{Balloon, BootSource, Drive, MachineConfig, NetworkInterface, Vsock},
    console::Console,
    guest::Guest,
    log::Log,
    refusal::Refusal,
    rules::{Action, Call, Phase},
    settings::{GuestKind, VsockKind},
    version::Version,
    vsock::Device,
};
use aetherium_agent_proto::config::GuestConfig;
use serde_json::{Value, json};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::{Notify, watch};

/// The state that `GET /` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    NotStarted,
    Running,
    Paused,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::NotStarted => "Not started",
            Self::Running => "Running",
            Self::Paused => "Paused",
        }
    }
}

/// How the guest and its devices are to behave.
pub(crate) struct Temper {
    pub(crate) version: Version,
    pub(crate) agent: PathBuf,
    pub(crate) guest: GuestKind,
    pub(crate) vsock: VsockKind,
}

/// A microVM.
pub(crate) struct Machine {
    temper: Temper,
    id: String,
    /// The VM's own directory: the API socket's.
    dir: PathBuf,
    pci: bool,
    log: Arc<Log>,
    console: Arc<Console>,
    state: State,
    /// Whether anything was configured that keeps a snapshot from being loaded.
    boot_path: bool,
    boot: Option<BootSource>,
    machine: MachineConfig,
    /// The root first, whatever the order of the calls.
    drives: Vec<(Drive, File)>,
    networks: Vec<(NetworkInterface, File)>,
    vsock: Option<(Vsock, Device)>,
    balloon: Option<Balloon>,
    entropy: Option<Value>,
    serial: Option<PathBuf>,
    metrics: Option<File>,
    /// Whether a snapshot was taken since the guest was paused.
    snapshot_taken: bool,
    /// What the guest was told at its boot.
    guest_config: Option<GuestConfig>,
    guest: watch::Sender<Option<Arc<Guest>>>,
    /// Told when the guest is over, which is Firecracker's own end.
    over: Arc<Notify>,
}

impl Machine {
    /// A machine of which nothing is configured, but for what the command line says.
    pub(crate) fn new(
        temper: Temper,
        serve: &Serve,
        metrics: Option<File>,
        log: Arc<Log>,
        over: Arc<Notify>,
    ) -> io::Result<Self> {
        let socket = std::path::absolute(&serve.api_socket)?;
        Ok(Self {
            temper,
            id: serve.id.clone(),
            dir: socket.parent().map(Path::to_owned).unwrap_or_default(),
            pci: serve.pci,
            log,
            console: Arc::default(),
            state: State::NotStarted,
            boot_path: false,
            boot: None,
            machine: MachineConfig::default(),
            drives: Vec::new(),
            networks: Vec::new(),
            vsock: None,
            balloon: None,
            entropy: None,
            serial: None,
            metrics,
            snapshot_taken: false,
            guest_config: None,
            guest: watch::Sender::new(None),
            over,
        })
    }

    /// Does what a call asks, if it may come now. A value is what to answer with.
    pub(crate) async fn perform(&mut self, call: Call) -> Result<Option<Value>, Refusal> {
        self.check_phase(call.rule.phase)?;
        let Call { rule, id, body } = call;
        match rule.action {
            Action::DescribeInstance => return Ok(Some(self.instance())),
            Action::DescribeVersion => {
                return Ok(Some(json!({ "firecracker_version": self.temper.version.to_string() })));
            }
            Action::DescribeConfig => return Ok(Some(self.config())),
            Action::DescribeMachine => return Ok(Some(json!(self.machine))),
            Action::DescribeBalloon => return self.describe_balloon().map(Some),
            Action::DescribeBalloonStats => return self.describe_balloon_stats().map(Some),
            Action::DescribeMemoryHotplug => return Err(no_device("Internal VMM")),
            Action::SetBootSource => self.set_boot_source(body)?,
            Action::SetCpuConfig => {}
            Action::SetMachine | Action::UpdateMachine => self.set_machine(body)?,
            Action::SetLogger => self.set_logger(body)?,
            Action::SetMetrics => self.set_metrics(body)?,
            Action::SetSerial => self.set_serial(body)?,
            Action::SetDrive => self.set_drive(body)?,
            Action::UpdateDrive => self.update_drive(&id.unwrap_or_default(), body)?,
            Action::SetNetwork => self.set_network(body)?,
            Action::UpdateNetwork => self.find_network(&id.unwrap_or_default())?,
            Action::SetVsock => self.set_vsock(body)?,
            Action::SetBalloon => self.set_balloon(body)?,
            Action::UpdateBalloon => self.update_balloon(body)?,
            Action::UpdateBalloonStats => self.update_balloon_stats(body)?,
            Action::SetEntropy => {
                self.boot_path = true;
                self.entropy = Some(json!({ "rate_limiter": body["rate_limiter"] }));
            }
            Action::SetPmem | Action::SetMemoryHotplug => self.boot_path = true,
            Action::UpdateMemoryHotplug => return Err(no_device("Memory hotplug update")),
            Action::Act => self.act(body)?,
            Action::SetState => self.set_state(body)?,
            Action::CreateSnapshot => self.create_snapshot(body)?,
            Action::LoadSnapshot => self.load_snapshot(body).await?,
        }
        Ok(None)
    }

    fn check_phase(&self, phase: Phase) -> Result<(), Refusal> {
        let started = self.state != State::NotStarted;
        match phase {
            Phase::Before if started => Err(Refusal::after_boot()),
            Phase::After if !started => Err(Refusal::before_boot()),
            Phase::BeforeOrHotplug if started && self.temper.version < Version::V1_16 => {
                Err(Refusal::after_boot())
            }
            Phase::BeforeOrHotplug if started && !self.pci => {
                Err(Refusal::bad_request("PCI is not enabled"))
            }
            _ => Ok(()),
        }
    }

    fn instance(&self) -> Value {
        json!({
            "app_name": "Firecracker",
            "id": self.id,
            "state": self.state.as_str(),
            "vmm_version": self.temper.version.to_string(),
        })
    }

    fn config(&self) -> Value {
        let drives: Vec<&Drive> = self.drives.iter().map(|(drive, _)| drive).collect();
        let networks: Vec<&NetworkInterface> = self.networks.iter().map(|(it, _)| it).collect();
        json!({
            "balloon": self.balloon,
            "boot-source": self.boot.clone().unwrap_or_default(),
            "cpu-config": null,
            "drives": drives,
            "entropy": self.entropy,
            "logger": null,
            "machine-config": self.machine,
            "memory-hotplug": null,
            "metrics": null,
            "mmds-config": null,
            "network-interfaces": networks,
            "pmem": [],
            "vsock": self.vsock.as_ref().map(|(vsock, _)| vsock),
        })
    }
}

/// A device was asked for that was never configured.
fn no_device(what: &str) -> Refusal {
    Refusal::bad_request(format!("{what} error: Failed perform action on device: Device not found"))
}
