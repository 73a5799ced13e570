//! One running Firecracker: its processes, and its API for what can be asked of it while it runs.

use super::{
    api::{Api, CALL_DEADLINE},
    metrics,
    plan::{FirecrackerVersion, KnownBad, RateLimiter, RateLimits},
    snapshot, tuning,
};
use crate::{
    AgentAddress, Footprint, Machine, SnapshotFiles, SnapshotKind, VmmError, VmmExit,
    supervise::Supervised,
};
use aetherium_model::{
    metrics::{BalloonUsage, VmmMetrics},
    resources::DriverKind,
    tuning::IoLimits,
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

    async fn devices(&self) -> Result<Devices, VmmError> {
        self.api.get("/vm/config").await
    }

    /// Has the metrics written, and waits for what this adds to their file.
    async fn flush_metrics(&self) -> Result<(), VmmError> {
        let length = async || {
            let seen = tokio::fs::metadata(&self.metrics).await;
            Ok::<u64, VmmError>(seen.map_err(VmmError::io("look at", &self.metrics))?.len())
        };
        let before = length().await?;
        let flush = json!({ "action_type": "FlushMetrics" });
        self.api.put("/actions", &flush, CALL_DEADLINE).await?;
        let written = async {
            while length().await? == before {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Ok(())
        };
        tokio::time::timeout(CALL_DEADLINE, written).await.unwrap_or_else(|_| {
            Err(VmmError::Unanswered { call: "FlushMetrics".to_owned(), waited: CALL_DEADLINE })
        })
    }

    /// How full the balloon is. A VM from an older snapshot has one without statistics.
    async fn balloon_usage(&self, balloon: Balloon) -> Result<BalloonUsage, VmmError> {
        if balloon.stats_polling_interval_s == 0 {
            let target_mib = Some(balloon.amount_mib);
            return Ok(BalloonUsage { target_mib, ..BalloonUsage::default() });
        }
        let told: BalloonStatistics = self.api.get("/balloon/statistics").await?;
        Ok(BalloonUsage {
            target_mib: Some(told.target_mib),
            actual_mib: Some(told.actual_mib),
            available_bytes: told.available_memory,
        })
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

    fn check_snapshot(&self, _kind: SnapshotKind) -> Result<(), VmmError> {
        Ok(())
    }

    async fn snapshot(&self, files: &SnapshotFiles, kind: SnapshotKind) -> Result<(), VmmError> {
        snapshot::take(self, files, kind).await
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.set_state("Resumed").await
    }

    async fn set_balloon(&self, mib: u32) -> Result<(), VmmError> {
        let verb = "resize the balloon";
        if self.devices().await?.balloon.is_none() {
            return Err(lacks(verb, "a balloon, for which its kernel has no driver"));
        }
        self.api.patch("/balloon", &json!({ "amount_mib": mib }), CALL_DEADLINE).await
    }

    async fn set_limits(&self, limits: &IoLimits) -> Result<(), VmmError> {
        let devices = self.devices().await?;
        if limits.concerns_network() && devices.interfaces.is_empty() {
            return Err(lacks("limit the network", "a network interface"));
        }
        let change = tuning::change(limits);
        if let Some(limit) = &change.disk {
            for Drive { drive_id } in devices.drives {
                let change = json!({ "drive_id": drive_id, "rate_limiter": limit });
                self.api.patch(&format!("/drives/{drive_id}"), &change, CALL_DEADLINE).await?;
            }
        }
        for Interface { iface_id } in devices.interfaces {
            let Some(change) = interface_change(&iface_id, &change) else { continue };
            let path = format!("/network-interfaces/{iface_id}");
            self.api.patch(&path, &change, CALL_DEADLINE).await?;
        }
        Ok(())
    }

    async fn metrics(&self) -> Result<VmmMetrics, VmmError> {
        let devices = self.devices().await?;
        self.flush_metrics().await?;
        let (path, has_network) = (self.metrics.clone(), !devices.interfaces.is_empty());
        let read = tokio::task::spawn_blocking(move || metrics::read(&path)).await;
        let text = read.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        let balloon = match devices.balloon {
            Some(balloon) => Some(self.balloon_usage(balloon).await?),
            None => None,
        };
        Ok(VmmMetrics { balloon, ..metrics::sum(&text, has_network) })
    }
}

/// The error for what needs a device that this VM was started without.
fn lacks(verb: &'static str, device: &str) -> VmmError {
    let why = format!("this VM was started without {device}");
    VmmError::Unsupported { driver: DriverKind::Firecracker, verb, why }
}

/// What `GET /vm/config` tells of devices that can be changed.
#[derive(Deserialize)]
struct Devices {
    #[serde(default)]
    drives: Vec<Drive>,
    #[serde(default, rename = "network-interfaces")]
    interfaces: Vec<Interface>,
    #[serde(default)]
    balloon: Option<Balloon>,
}

#[derive(Deserialize)]
struct Drive {
    drive_id: String,
}

#[derive(Deserialize)]
struct Interface {
    iface_id: String,
}

#[derive(Deserialize)]
struct Balloon {
    amount_mib: u32,
    #[serde(default)]
    stats_polling_interval_s: u32,
}

/// What `GET /balloon/statistics` tells; what the guest has not told yet is absent.
#[derive(Deserialize)]
struct BalloonStatistics {
    target_mib: u32,
    actual_mib: u32,
    #[serde(default)]
    available_memory: Option<u64>,
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
