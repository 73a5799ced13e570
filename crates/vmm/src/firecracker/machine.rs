//! One running Firecracker: its processes, and its API for what can be asked of it while it runs.

use super::{
    api::{Api, CALL_DEADLINE},
    plan::{FirecrackerVersion, KnownBad, RateLimiter, RateLimits},
    snapshot,
};
use crate::{
    AgentAddress, Footprint, Machine, SnapshotFiles, SnapshotKind, VmmError, VmmExit,
    supervise::Supervised,
};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{path::PathBuf, time::Duration};

/// How long pausing may take: every virtual CPU is kicked out of its guest.
const PAUSE_DEADLINE: Duration = Duration::from_secs(10);
/// How often the metrics file is looked at for the line that was asked for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// The metrics file's name; see the plan.
const METRICS: &str = "metrics.json";

/// A running Firecracker.
pub(crate) struct FirecrackerMachine {
    processes: Supervised,
    pub(super) api: Api,
    metrics: PathBuf,
    version: FirecrackerVersion,
}

impl FirecrackerMachine {
    /// The Firecracker of these processes.
    pub(super) fn new(processes: Supervised, version: FirecrackerVersion) -> Self {
        let footprint = processes.footprint();
        // One without a control socket is none that this driver started: every call will say so.
        let api = Api::new(footprint.control.clone().unwrap_or_default());
        let metrics = footprint.vmm_log.with_file_name(METRICS);
        Self { processes, api, metrics, version }
    }

    pub(super) const fn version(&self) -> FirecrackerVersion {
        self.version
    }

    /// Whether a bare pause would cost this VM its virtio socket.
    fn loses_vsock(&self) -> bool {
        let has_vsock =
            self.footprint().agent.iter().any(|it| matches!(it, AgentAddress::Vsock { .. }));
        has_vsock && self.version.known_bad().any(|bad| bad == KnownBad::PausedVsock)
    }

    async fn set_state(&self, state: &str) -> Result<(), VmmError> {
        self.api.patch("/vm", &json!({ "state": state }), PAUSE_DEADLINE).await
    }
}

#[async_trait]
impl Machine for FirecrackerMachine {
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
        let action = json!({ "action_type": "SendCtrlAltDel" });
        self.api.put("/actions", &action, CALL_DEADLINE).await
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.set_state("Paused").await?;
        if !self.loses_vsock() {
            return Ok(());
        }
        // A snapshot tells the guest that its connections are gone, which a bare pause does not do;
        // without being told, such a version gives the guest nothing more after it has resumed.
        if let Err(error) = snapshot::take_and_discard(self).await {
            self.set_state("Resumed").await?;
            return Err(error);
        }
        Ok(())
    }

    fn pause_forgets_written_pages(&self) -> bool {
        self.loses_vsock()
    }

    async fn pause_for_snapshot(&self) -> Result<(), VmmError> {
        self.set_state("Paused").await
    }

    async fn snapshot(&self, files: &SnapshotFiles, kind: SnapshotKind) -> Result<(), VmmError> {
        snapshot::take(self, files, kind).await
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.set_state("Resumed").await
    }

    async fn set_balloon(&self, mib: u32) -> Result<(), VmmError> {
        self.api.patch("/balloon", &json!({ "amount_mib": mib }), CALL_DEADLINE).await
    }

    async fn set_rate_limits(&self, limits: &RateLimits) -> Result<(), VmmError> {
        let devices: Devices = self.api.get("/vm/config").await?;
        if let Some(limit) = &limits.disk {
            for Drive { drive_id } in devices.drives {
                let change = json!({ "drive_id": drive_id, "rate_limiter": limit });
                self.api.patch(&format!("/drives/{drive_id}"), &change, CALL_DEADLINE).await?;
            }
        }
        for Interface { iface_id } in devices.interfaces {
            let Some(change) = interface_change(&iface_id, limits) else { continue };
            let path = format!("/network-interfaces/{iface_id}");
            self.api.patch(&path, &change, CALL_DEADLINE).await?;
        }
        Ok(())
    }

    /// Has the metrics written, and returns the line that this added to the file.
    async fn metrics(&self) -> Result<Value, VmmError> {
        let read = || std::fs::read_to_string(&self.metrics);
        let before = read().map_err(VmmError::io("read", &self.metrics))?.len();
        let flush = json!({ "action_type": "FlushMetrics" });
        self.api.put("/actions", &flush, CALL_DEADLINE).await?;
        let written = async {
            loop {
                let text = read().map_err(VmmError::io("read", &self.metrics))?;
                let line = text.get(before..).and_then(|new| new.split_once('\n'));
                if let Some(metrics) = line.and_then(|it| serde_json::from_str(it.0).ok()) {
                    return Ok(metrics);
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let late =
            |_| VmmError::Unanswered { call: "FlushMetrics".to_owned(), waited: CALL_DEADLINE };
        tokio::time::timeout(CALL_DEADLINE, written).await.map_err(late)?
    }
}

/// What `GET /vm/config` tells of devices with rate limits.
#[derive(Deserialize)]
struct Devices {
    #[serde(default)]
    drives: Vec<Drive>,
    #[serde(default, rename = "network-interfaces")]
    interfaces: Vec<Interface>,
}

#[derive(Deserialize)]
struct Drive {
    drive_id: String,
}

#[derive(Deserialize)]
struct Interface {
    iface_id: String,
}

/// What changes for an interface; `None` where nothing does.
fn interface_change(iface_id: &str, limits: &RateLimits) -> Option<Value> {
    let RateLimits { net_rx, net_tx, .. } = limits;
    let mut change = json!({ "iface_id": iface_id });
    let mut set = |name: &str, limit: &Option<RateLimiter>| {
        if let Some(limit) = limit {
            change[name] = json!(limit);
        }
        limit.is_some()
    };
    let changed = [set("rx_rate_limiter", net_rx), set("tx_rate_limiter", net_tx)];
    changed.contains(&true).then_some(change)
}
