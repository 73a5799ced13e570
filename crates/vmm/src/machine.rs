//! The two traits that every driver implements.

use crate::{
    Accelerator, Footprint, LaunchSpec, ProbeGuest, SnapshotFiles, SnapshotKind, SnapshotVmm,
    VmmError,
};
use aetherium_model::{
    VmId, finding::Finding, metrics::VmmMetrics, resources::DriverKind, tuning::IoLimits,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{fmt, path::Path, sync::Arc, time::Duration};

/// A driver: starts VMs and takes over those that an earlier host process started.
#[async_trait]
pub trait Vmm: Send + Sync {
    /// Which driver it is.
    fn kind(&self) -> DriverKind;

    /// Looks at what the driver needs of this host. Starts no VM.
    async fn preflight(&self) -> Vec<Finding>;

    /// Learns how guests of this kernel run best here, by running one if that is not known yet, and
    /// remembers it for later launches with the same kernel path. Takes seconds at most; failing to
    /// learn is a finding and never an error. A driver without a choice says so.
    async fn prepare(&self, guest: &ProbeGuest) -> Finding;

    /// Starts a VM. When this returns, its VMM runs and its agent's addresses are known; the guest
    /// has hardly begun to boot.
    ///
    /// # Errors
    /// Whatever kept the VMM from running. Nothing of the VM is left then but its logs.
    async fn launch(&self, spec: &LaunchSpec) -> Result<Arc<dyn Machine>, VmmError>;

    /// Takes over a VM from its footprint; `None` if its VMM is gone, with what it left removed.
    ///
    /// # Errors
    /// When it cannot be told whether the VMM lives, or what it left cannot be removed.
    async fn adopt(&self, footprint: Footprint) -> Result<Option<Arc<dyn Machine>>, VmmError>;

    /// How a guest of the kernel at this path would run if it were started now.
    fn accelerator(&self, kernel: &Path) -> Accelerator;

    /// What snapshots of a guest that runs like this depend on, with this driver on this host.
    ///
    /// # Errors
    /// [`VmmError::Unsupported`] where it takes none.
    async fn snapshots(&self, accelerator: Accelerator) -> Result<SnapshotVmm, VmmError> {
        let _ = accelerator;
        let (driver, why) = (self.kind(), "it has no means for that".to_owned());
        Err(VmmError::Unsupported { driver, verb: "take snapshots", why })
    }

    /// Starts a VM from a snapshot that fits, see [`crate::SnapshotGround::check`]. It is paused; its
    /// agent's connections are gone, and its clock and its secrets are those of the snapshot.
    ///
    /// # Errors
    /// Whatever kept the VMM from loading it. Nothing of the VM is left then but its logs.
    async fn restore(
        &self,
        spec: &LaunchSpec,
        files: &SnapshotFiles,
    ) -> Result<Arc<dyn Machine>, VmmError> {
        let _ = (spec, files);
        let (driver, why) = (self.kind(), "it has no means for that".to_owned());
        Err(VmmError::Unsupported { driver, verb: "load a snapshot", why })
    }

    /// Removes what a VM without a machine has left outside of its run directory, whether it was
    /// ever launched or not. Its processes have been ended; see [`crate::strays`].
    ///
    /// # Errors
    /// What could not be removed.
    async fn sweep(&self, vm_id: VmId, run_dir: &Path) -> Result<(), VmmError> {
        let _ = (vm_id, run_dir);
        Ok(())
    }
}

/// One running VM. Dropping it ends nothing.
#[async_trait]
pub trait Machine: Send + Sync {
    /// What the VM has on this host.
    fn footprint(&self) -> &Footprint;

    /// Resolves when the VMM has ended, and says how. Any number of callers may wait, each may stop
    /// waiting at any time, and each gets the same answer.
    async fn wait(&self) -> VmmExit;

    /// Kills all processes of the VM, reaps them and removes its sockets. Harmless on a VM that has
    /// ended, and wanted there: helpers and sockets may be left.
    ///
    /// # Errors
    /// [`VmmError::StillAlive`] when a process has not ended by the deadline.
    async fn kill(&self, deadline: Duration) -> Result<(), VmmError>;

    /// Asks the guest to end by the means of the machine (Ctrl-Alt-Del, a power button), for a guest
    /// whose agent does not answer. That it was asked does not mean that it will.
    ///
    /// # Errors
    /// [`VmmError::Unsupported`] where the driver has no such means, or the VMM's refusal.
    async fn press_power_button(&self) -> Result<(), VmmError> {
        Err(self.unsupported("ask a guest to end"))
    }

    /// Stops the guest's virtual CPUs; its memory is kept. Harmless on one that is paused.
    ///
    /// # Errors
    /// [`VmmError::Unsupported`], or the VMM's refusal.
    async fn pause(&self) -> Result<(), VmmError> {
        Err(self.unsupported("pause a VM"))
    }

    /// Whether [`Machine::pause`] makes the VMM forget which pages were written: a diff snapshot after
    /// one would lack them.
    fn pause_forgets_written_pages(&self) -> bool {
        false
    }

    /// Stops the guest's virtual CPUs for a snapshot, and forgets nothing. A guest of which no snapshot
    /// came about has to be paused in the other way, too, before it goes on.
    ///
    /// # Errors
    /// As [`Machine::pause`].
    async fn pause_for_snapshot(&self) -> Result<(), VmmError> {
        self.pause().await
    }

    /// Lets a paused guest go on. Harmless on one that runs.
    ///
    /// # Errors
    /// [`VmmError::Unsupported`], or the VMM's refusal.
    async fn resume(&self) -> Result<(), VmmError> {
        Err(self.unsupported("resume a VM"))
    }

    /// Whether a snapshot of this VM can be taken, as far as is known without stopping it.
    ///
    /// # Errors
    /// [`VmmError::Unsupported`] with the reason.
    fn check_snapshot(&self, kind: SnapshotKind) -> Result<(), VmmError> {
        let _ = kind;
        Err(self.unsupported("take a snapshot"))
    }

    /// Ends what an earlier process of ours may have begun to write of a paused guest, so that the guest
    /// can go on. Harmless where nothing is being written.
    ///
    /// # Errors
    /// The VMM's refusal.
    async fn give_up_snapshot(&self) -> Result<(), VmmError> {
        Ok(())
    }

    /// Writes a snapshot of a paused guest, which stays paused. The files are made here.
    ///
    /// # Errors
    /// [`VmmError::Unsupported`], or the VMM's refusal; the files are then worth nothing.
    async fn snapshot(&self, files: &SnapshotFiles, kind: SnapshotKind) -> Result<(), VmmError> {
        let _ = (files, kind);
        Err(self.unsupported("take a snapshot"))
    }

    /// Takes `mib` MiB of memory away from the guest, or gives back what was taken before.
    ///
    /// # Errors
    /// [`VmmError::Unsupported`], or the VMM's refusal.
    async fn set_balloon(&self, mib: u32) -> Result<(), VmmError> {
        let _ = mib;
        Err(self.unsupported("resize a balloon"))
    }

    /// Changes what the guest's I/O is held to; what is absent in `limits` stays as it is.
    ///
    /// # Errors
    /// [`VmmError::Unsupported`], before anything is changed; or the VMM's refusal.
    async fn set_limits(&self, limits: &IoLimits) -> Result<(), VmmError> {
        let _ = limits;
        Err(self.unsupported("limit a guest's I/O"))
    }

    /// What the VMM counts; nothing where it counts nothing.
    ///
    /// # Errors
    /// Why nothing was read.
    async fn metrics(&self) -> Result<VmmMetrics, VmmError> {
        Ok(VmmMetrics::default())
    }

    /// The error for a verb that this driver has no way to do.
    fn unsupported(&self, verb: &'static str) -> VmmError {
        let why = "it has no means for that".to_owned();
        VmmError::Unsupported { driver: self.footprint().driver, verb, why }
    }
}

/// How a VMM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmmExit {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// It ended, but its status went to another process: it was adopted.
    Unknown,
}

impl fmt::Display for VmmExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
            Self::Unknown => f.write_str("ended with a status that this process cannot know"),
        }
    }
}
