//! The Firecracker driver: KVM alone, under the jailer where this process is root.
//!
//! ```text
//! launch: plan ─► files, jail ─► Firecracker listens ─► the plan's calls ─► InstanceStart
//!          └ refused with its reason     └ ends: its last words     └ refused: Firecracker's words
//! ```
//! [`plan`] decides, without looking at anything; this module and its others do what it says. A launch
//! that fails leaves nothing but logs; one that is given up leaves no process, and [`Vmm::sweep`]
//! finds the rest.

mod api;
pub(crate) mod cgroup;
pub(crate) mod jail;
mod launch;
mod machine;
mod metrics;
pub mod plan;
mod preflight;
mod probe;
mod program;
mod snapshot;
mod tuning;

use crate::{
    Accelerator, Boot, DriverConfig, Footprint, LaunchSpec, Machine, ProbeGuest, SnapshotFiles,
    SnapshotVmm, Vmm, VmmError, host,
    kvm::{self, Kvm},
    spawn::find_program,
    supervise::Supervised,
};
use aetherium_model::{VmId, finding::Finding, resources::DriverKind};
use async_trait::async_trait;
use jail::Users;
use launch::Confine;
use machine::FirecrackerMachine;
use plan::{Confinement, FirecrackerVersion, NetworkRequest, Plan};
pub use preflight::kvm_device;
use program::Program;
use std::{path::Path, sync::Arc, time::Duration};

/// How long the cgroup of a VM that was never finished may take to be empty.
const SWEEP_DEADLINE: Duration = Duration::from_secs(2);

/// The Firecracker driver.
pub struct Firecracker {
    config: DriverConfig,
    program: Program,
    kvm: Kvm,
    users: Users,
}

impl Firecracker {
    /// Whether there is a Firecracker to be asked at all.
    pub fn is_installed(config: &DriverConfig) -> bool {
        find_program(config.firecracker.as_deref(), program::PROGRAM).is_some()
    }

    /// A driver that looks for its programs where `config` says.
    pub fn new(config: &DriverConfig) -> Self {
        Self {
            program: Program::new(config.firecracker.clone()),
            kvm: Kvm::new(&config.cache_dir),
            users: Users::new(),
            config: config.clone(),
        }
    }

    /// How this driver would start a VM, or why it would not; by the Firecracker that is installed
    /// unless another `version` is named. Starts nothing. With `slot_to_come` the VM gets a slot of
    /// the network, though `spec` has none yet.
    ///
    /// # Errors
    /// The plan's refusal; or there is no Firecracker to ask for its version.
    pub async fn plan(
        &self,
        spec: &LaunchSpec,
        version: Option<FirecrackerVersion>,
        slot_to_come: bool,
    ) -> Result<Plan, VmmError> {
        let (version, info) = match (version, self.program.info().await) {
            (Some(version), info) => (version, info.ok()),
            (None, info) => {
                let info = info?;
                (info.version, Some(info))
            }
        };
        let confinement = match (Confine::choose(&self.config), info) {
            (Ok(Confine::Jailer(_)), Some(info)) => Confinement::Jailed {
                root: jail::root(&spec.run_dir, &info.path, &jail::jail_id(spec.vm_id))?,
            },
            _ => Confinement::Plain,
        };
        let network = match &spec.slot {
            None if slot_to_come => Some(NetworkRequest::to_come()),
            slot => slot.as_ref().map(NetworkRequest::of),
        };
        launch::planned(version, spec, confinement, network)
    }
}

#[async_trait]
impl Vmm for Firecracker {
    fn kind(&self) -> DriverKind {
        DriverKind::Firecracker
    }

    async fn preflight(&self) -> Vec<Finding> {
        let info = self.program.info().await;
        let mut findings = vec![program::finding(&info), launch::jailer_finding(&self.config)];
        findings.extend(preflight::findings(info.as_ref().ok().map(|info| info.version)));
        findings.push(match &info {
            Ok(info) => self
                .kvm
                .recall(&info.name())
                .unwrap_or_else(|| kvm::unprobed("not probed yet: needs a template")),
            Err(_) => kvm::unprobed("not probed: no Firecracker answers"),
        });
        findings.push(host::memory());
        findings.push(host::disk(&self.config.data_dir));
        findings
    }

    async fn prepare(&self, guest: &ProbeGuest) -> Finding {
        match self.program.info().await {
            Ok(info) => self.kvm.learn(&info, guest).await,
            Err(error) => kvm::unprobed(&error.to_string()),
        }
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Arc<dyn Machine>, VmmError> {
        let Boot::Kernel { kernel, .. } = &spec.boot else {
            let (driver, boot) = (DriverKind::Firecracker, "a plain process");
            return Err(VmmError::WrongBoot { driver, boot });
        };
        spec.check_paths()?;
        let verdict = self.kvm.verdict_for(&kernel.image);
        let reason = match verdict {
            Some(verdict) if !verdict.runs => {
                return Err(VmmError::NoKvm { reason: verdict.reason });
            }
            Some(verdict) => verdict.reason,
            None => "Firecracker runs guests under KVM alone".to_owned(),
        };
        let info = self.program.info().await?;
        let from = launch::Source::Kernel;
        let machine = launch::launch(&self.config, &self.users, &info, spec, from, reason).await?;
        Ok(Arc::new(machine))
    }

    fn accelerator(&self, _kernel: &Path) -> Accelerator {
        Accelerator::Kvm
    }

    async fn snapshots(&self, _accelerator: Accelerator) -> Result<SnapshotVmm, VmmError> {
        snapshot::of_this_host(&self.program).await
    }

    async fn restore(
        &self,
        spec: &LaunchSpec,
        files: &SnapshotFiles,
    ) -> Result<Arc<dyn Machine>, VmmError> {
        spec.check_paths()?;
        let info = self.program.info().await?;
        snapshot::refuse_known_bad(info.version, spec)?;
        let (from, reason) =
            (launch::Source::Snapshot(files), "it ran under KVM before".to_owned());
        let machine = launch::launch(&self.config, &self.users, &info, spec, from, reason).await?;
        Ok(Arc::new(machine))
    }

    async fn adopt(&self, footprint: Footprint) -> Result<Option<Arc<dyn Machine>>, VmmError> {
        if footprint.driver != DriverKind::Firecracker {
            let (theirs, ours) = (footprint.driver, DriverKind::Firecracker);
            return Err(VmmError::WrongDriver { theirs, ours });
        }
        let version = self.program.info().await?.version;
        let adopted = Supervised::adopt(footprint).await?;
        Ok(adopted.map(|it| Arc::new(FirecrackerMachine::new(it, version)) as Arc<dyn Machine>))
    }

    async fn sweep(&self, vm_id: VmId, run_dir: &Path) -> Result<(), VmmError> {
        // Without a Firecracker there is no jail of one to be named after it; its cgroup may be.
        if let Ok(info) = self.program.info().await {
            jail::remove(&jail::root(run_dir, &info.path, &jail::jail_id(vm_id))?)?;
        }
        match cgroup::Hierarchy::of_host() {
            Ok(cgroups) => {
                cgroup::remove(&cgroups.path(&jail::jail_id(vm_id)), SWEEP_DEADLINE).await
            }
            Err(_) => Ok(()),
        }
    }
}
