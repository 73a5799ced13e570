//! The choice of a driver: asked for by name, or the first that this host can run.

use crate::{AgentProcess, ProbeGuest, Qemu, Vmm};
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
/// `auto` never chooses the process driver, which isolates nothing.
///
/// # Errors
/// [`Code::DriverUnavailable`] when what was asked for fails its preflight, with the failed checks
/// as evidence.
pub async fn choose(
    choice: DriverChoice,
    config: &DriverConfig,
    probe: Option<&ProbeGuest>,
) -> Result<Chosen, Fault> {
    let (kind, why) = match choice {
        DriverChoice::Auto => (DriverKind::Qemu, "the first driver that passes its preflight"),
        DriverChoice::Only(kind) => (kind, "asked for by name"),
    };
    let vmm: Arc<dyn Vmm> = match kind {
        DriverKind::Qemu => Arc::new(Qemu::new(config)),
        DriverKind::Process => Arc::new(AgentProcess::new(config)),
        DriverKind::Firecracker => {
            return Err(Fault::new(
                Code::DriverUnavailable,
                "this build has no firecracker driver",
            )
            .remedy("give auto, qemu or process"));
        }
    };
    let mut findings = vmm.preflight().await;
    let failed: Vec<&Finding> = findings.iter().filter(|it| it.verdict == Verdict::Fail).collect();
    if let Some(first) = failed.first() {
        let fault = Fault::new(
            Code::DriverUnavailable,
            format!("the {kind} driver cannot run here: {}: {}", first.check, first.found),
        );
        let evidence: Vec<String> =
            failed.iter().map(|it| format!("{}: {}", it.check, it.found)).collect();
        return Err(fault.remedy(first.remedy.clone()).evidence(evidence));
    }
    let mut reason = format!("{kind}: {why}");
    if let Some(guest) = probe {
        let learned = vmm.prepare(guest).await;
        reason = format!("{reason}; {}", learned.found);
        findings.retain(|it| it.check != learned.check);
        findings.push(learned);
    }
    Ok(Chosen { vmm, reason, findings })
}
