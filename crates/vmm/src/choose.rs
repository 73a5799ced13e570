//! The choice of a driver: asked for by name, or the first that this host can run.

use crate::{AgentProcess, Firecracker, Model, ProbeGuest, Qemu, Simulated, Vmm, kvm};
use aetherium_model::{
    Code, Fault,
    finding::{Finding, Verdict},
    resources::{DriverChoice, DriverKind},
};
use std::{path::PathBuf, sync::Arc};

/// Where drivers find what they need.
#[derive(Debug, Clone, Default)]
pub struct DriverConfig {
    /// QEMU; looked up in `PATH` where absent.
    pub qemu: Option<PathBuf>,
    /// The helper that carries virtio sockets, `vhost-device-vsock`; looked up in `PATH` where absent.
    pub vsock_helper: Option<PathBuf>,
    /// Firecracker; looked up in `PATH` where absent.
    pub firecracker: Option<PathBuf>,
    /// Firecracker's jailer; looked up beside it and in `PATH` where absent.
    pub jailer: Option<PathBuf>,
    /// Whether root, too, runs Firecracker without the jailer.
    pub no_jailer: bool,
    /// The agent's binary, for the process driver.
    pub agent: Option<PathBuf>,
    /// Where VMs' disks are made: its free space is looked at.
    pub data_dir: PathBuf,
    /// A directory of our own, where verdicts of probes are kept.
    pub cache_dir: PathBuf,
}

/// A driver, and why it was chosen.
pub struct Chosen {
    /// The driver.
    pub vmm: Arc<dyn Vmm>,
    /// Why this one, in a sentence.
    pub reason: String,
    /// What its preflight found.
    pub findings: Vec<Finding>,
}

/// Chooses the driver to use, and lets it learn from `probe` how guests run best here.
///
/// `auto` takes Firecracker only if a probe guest has booted with it on this host: an openable
/// `/dev/kvm` is no proof. It never takes the process driver, which isolates nothing.
///
/// # Errors
/// [`Code::DriverUnavailable`] when what was asked for fails its preflight, with the failed checks
/// as evidence.
pub async fn choose(
    choice: DriverChoice,
    config: &DriverConfig,
    probe: Option<&ProbeGuest>,
) -> Result<Chosen, Fault> {
    let kind = match choice {
        DriverChoice::Only(kind) => {
            let driver = Candidate::look_at(kind, config, probe).await;
            return driver.take("asked for by name");
        }
        DriverChoice::Auto => DriverKind::Firecracker,
    };
    let best = Candidate::look_at(kind, config, probe).await;
    let Some(passed_over) = best.doubt() else {
        return best.take("the first driver that passes its preflight and its probe");
    };
    let fallback = Candidate::look_at(DriverKind::Qemu, config, probe).await;
    fallback.take(&format!("{kind} was passed over: {passed_over}"))
}

/// A driver that has been looked at.
struct Candidate {
    vmm: Arc<dyn Vmm>,
    findings: Vec<Finding>,
}

impl Candidate {
    async fn look_at(kind: DriverKind, config: &DriverConfig, probe: Option<&ProbeGuest>) -> Self {
        let vmm: Arc<dyn Vmm> = match kind {
            DriverKind::Firecracker => Arc::new(Firecracker::new(config)),
            DriverKind::Qemu => Arc::new(Qemu::new(config)),
            DriverKind::Process => Arc::new(AgentProcess::new(config)),
            DriverKind::Simulated => {
                let socket = config.cache_dir.join("guests.sock");
                Arc::new(Simulated::new(Model::default(), socket))
            }
        };
        let mut findings = vmm.preflight().await;
        let usable = findings.iter().all(|it| it.verdict != Verdict::Fail);
        if let Some(guest) = probe.filter(|_| usable) {
            let learned = vmm.prepare(guest).await;
            findings.retain(|it| it.check != learned.check);
            findings.push(learned);
        }
        Self { vmm, findings }
    }

    fn failed(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|it| it.verdict == Verdict::Fail)
    }

    /// Why `auto` does not take it, although it might work.
    fn doubt(&self) -> Option<String> {
        let unproven =
            self.findings.iter().find(|it| it.check == kvm::CHECK && it.verdict != Verdict::Ok);
        self.failed().next().or(unproven).map(|it| it.found.clone())
    }

    fn take(self, why: &str) -> Result<Chosen, Fault> {
        let kind = self.vmm.kind();
        if let Some(first) = self.failed().next() {
            let detail =
                format!("the {kind} driver cannot run here: {}: {}", first.check, first.found);
            let evidence: Vec<String> =
                self.failed().map(|it| format!("{}: {}", it.check, it.found)).collect();
            return Err(Fault::new(Code::DriverUnavailable, detail)
                .remedy(first.remedy.clone())
                .evidence(evidence));
        }
        let probed = self.findings.iter().find(|it| it.check == kvm::CHECK);
        let probed = probed.map(|it| format!("; {}", it.found)).unwrap_or_default();
        let reason = format!("{kind}: {why}{probed}");
        Ok(Chosen { vmm: self.vmm, reason, findings: self.findings })
    }
}
