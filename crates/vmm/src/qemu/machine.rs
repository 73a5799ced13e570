//! One running QEMU: its processes, and its monitor for what can be asked of it while it runs.

use super::{monitor::Monitor, snapshot};
use crate::{
    Footprint, Machine, SnapshotFiles, SnapshotKind, VmmError, VmmExit, supervise::Supervised,
};
use aetherium_model::{
    metrics::{BalloonUsage, DiskUsage, VmmMetrics},
    resources::DriverKind,
};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::timeout;

/// How long the monitor may take to answer.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
const MIB: u64 = 1024 * 1024;

/// A running QEMU.
pub(crate) struct QemuMachine {
    processes: Supervised,
    monitor: PathBuf,
}

impl QemuMachine {
    /// The QEMU of these processes.
    pub(super) fn new(processes: Supervised) -> Self {
        let footprint = processes.footprint();
        // Journals of an earlier build name the monitor among the sockets alone.
        let monitor = footprint.control.clone().or_else(|| footprint.sockets.first().cloned());
        Self { monitor: monitor.unwrap_or_default(), processes }
    }

    async fn ask(&self, command: &str, arguments: Value) -> Result<Value, VmmError> {
        ask(&self.monitor, command, arguments).await
    }

    /// How full the balloon is; `None` where the VM has none, as before there were any.
    async fn balloon(&self) -> Result<Option<BalloonUsage>, VmmError> {
        let actual = match self.ask("query-balloon", json!({})).await {
            Ok(answer) => answer["actual"].as_u64().unwrap_or_default() / MIB,
            Err(VmmError::Control { answer, .. }) if answer.contains("DeviceNotActive") => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        // QEMU counts what the guest has, and not what it goes without.
        let memory_mib = self.footprint().memory_mib;
        let actual_mib = memory_mib.saturating_sub(u32::try_from(actual).unwrap_or(u32::MAX));
        Ok(Some(BalloonUsage { actual_mib: Some(actual_mib), ..BalloonUsage::default() }))
    }

    async fn disks(&self) -> Result<DiskUsage, VmmError> {
        let answer = self.ask("query-blockstats", json!({})).await?;
        let disks: Vec<Disk> = serde_json::from_value(answer).map_err(|error| {
            VmmError::Control { command: "query-blockstats".to_owned(), answer: error.to_string() }
        })?;
        Ok(disks.into_iter().fold(DiskUsage::default(), |sum, Disk { stats }| DiskUsage {
            read_bytes: sum.read_bytes + stats.rd_bytes,
            written_bytes: sum.written_bytes + stats.wr_bytes,
            reads: sum.reads + stats.rd_operations,
            writes: sum.writes + stats.wr_operations,
            throttled: None,
        }))
    }
}

/// Asks a monitor one thing. It serves one connection at a time, so none is kept.
async fn ask(monitor: &Path, command: &str, arguments: Value) -> Result<Value, VmmError> {
    let asked = async { Monitor::connect(monitor).await?.execute(command, arguments).await };
    timeout(CALL_DEADLINE, asked).await.unwrap_or_else(|_| Err(late(command, CALL_DEADLINE)))
}

/// Takes `mib` MiB away from a guest; QEMU is told what is left to it, in bytes.
pub(super) async fn set_balloon(monitor: &Path, memory_mib: u32, mib: u32) -> Result<(), VmmError> {
    let left = u64::from(memory_mib.saturating_sub(mib)) * MIB;
    match ask(monitor, "balloon", json!({ "value": left })).await {
        Err(VmmError::Control { answer, .. }) if answer.contains("DeviceNotActive") => {
            let why = "this VM was started without a balloon".to_owned();
            Err(VmmError::Unsupported { driver: DriverKind::Qemu, verb: "resize the balloon", why })
        }
        answer => answer.map(drop),
    }
}

/// One of those that `query-blockstats` tells of.
#[derive(Deserialize)]
struct Disk {
    stats: DiskStats,
}

#[derive(Deserialize)]
struct DiskStats {
    rd_bytes: u64,
    wr_bytes: u64,
    rd_operations: u64,
    wr_operations: u64,
}

fn late(call: &str, waited: Duration) -> VmmError {
    VmmError::Unanswered { call: call.to_owned(), waited }
}

#[async_trait]
impl Machine for QemuMachine {
    fn footprint(&self) -> &Footprint {
        self.processes.footprint()
    }

    async fn wait(&self) -> VmmExit {
        self.processes.wait().await
    }

    async fn kill(&self, deadline: Duration) -> Result<(), VmmError> {
        self.processes.kill(deadline).await
    }

    async fn press_power_button(&self) -> Result<(), VmmError> {
        self.ask("system_powerdown", json!({})).await.map(drop)
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.ask("stop", json!({})).await.map(drop)
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.ask("cont", json!({})).await.map(drop)
    }

    fn check_snapshot(&self, kind: SnapshotKind) -> Result<(), VmmError> {
        snapshot::refuse(self.footprint(), kind)
    }

    async fn give_up_snapshot(&self) -> Result<(), VmmError> {
        snapshot::give_up(&self.monitor).await
    }

    async fn snapshot(&self, files: &SnapshotFiles, kind: SnapshotKind) -> Result<(), VmmError> {
        snapshot::refuse(self.footprint(), kind)?;
        let taken = snapshot::take(&self.monitor, files).await;
        if taken.is_err()
            && let Err(error) = self.ask("migrate_cancel", json!({})).await
        {
            let vm = self.footprint().vm_id;
            tracing::warn!(%vm, %error, "a snapshot that failed may still be being written");
        }
        taken
    }

    async fn set_balloon(&self, mib: u32) -> Result<(), VmmError> {
        set_balloon(&self.monitor, self.footprint().memory_mib, mib).await
    }

    async fn metrics(&self) -> Result<VmmMetrics, VmmError> {
        let (balloon, disk) = (self.balloon().await?, Some(self.disks().await?));
        Ok(VmmMetrics { balloon, disk, net: None, raw: None })
    }
}
