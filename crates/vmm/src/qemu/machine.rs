//! One running QEMU: its processes, and its monitor for what can be asked of it while it runs.

use super::{monitor::Monitor, snapshot};
use crate::{
    Footprint, Machine, SnapshotFiles, SnapshotKind, VmmError, VmmExit, supervise::Supervised,
};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::{path::PathBuf, time::Duration};
use tokio::time::timeout;

/// How long the monitor may take to answer.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

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

    /// Asks the monitor one thing. It serves one connection at a time, so none is kept.
    async fn ask(&self, command: &str, arguments: Value) -> Result<Value, VmmError> {
        let asked =
            async { Monitor::connect(&self.monitor).await?.execute(command, arguments).await };
        timeout(CALL_DEADLINE, asked).await.unwrap_or_else(|_| Err(late(command, CALL_DEADLINE)))
    }
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
}
