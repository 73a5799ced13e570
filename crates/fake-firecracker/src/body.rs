//! The bodies of the calls that change something, once the rules have passed their fields.

use crate::{refusal::Refusal, rules::Action};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::path::PathBuf;

/// Reads a body as what its call takes.
pub(crate) fn read<T: DeserializeOwned>(body: Value) -> Result<T, Refusal> {
    serde_json::from_value(body).map_err(Refusal::body)
}

/// Whether a body can be read as what its call takes. Firecracker looks at this before it asks
/// whether the call may come now.
pub(crate) fn check(action: Action, body: &Value) -> Result<(), Refusal> {
    fn is<T: DeserializeOwned>(body: &Value) -> Result<(), Refusal> {
        T::deserialize(body).map(drop).map_err(Refusal::body)
    }
    match action {
        Action::SetBootSource => is::<BootSource>(body),
        Action::SetMachine => is::<MachineConfig>(body),
        Action::SetLogger => is::<LoggerBody>(body),
        Action::SetMetrics => is::<MetricsBody>(body),
        Action::SetSerial => is::<SerialBody>(body),
        Action::SetDrive => is::<Drive>(body),
        Action::UpdateDrive => is::<DriveUpdate>(body),
        Action::SetNetwork => is::<NetworkInterface>(body),
        Action::SetVsock => is::<Vsock>(body),
        Action::SetBalloon => is::<Balloon>(body),
        Action::UpdateBalloon => is::<BalloonUpdate>(body),
        Action::UpdateBalloonStats => is::<BalloonStatsUpdate>(body),
        Action::Act => is::<ActionBody>(body),
        Action::SetState => is::<StateBody>(body),
        Action::CreateSnapshot => is::<CreateSnapshot>(body),
        Action::LoadSnapshot => {
            LoadSnapshot::deserialize(body).map_err(Refusal::body)?.memory().map(drop)
        }
        _ => Ok(()),
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct BootSource {
    pub(crate) kernel_image_path: PathBuf,
    #[serde(default)]
    pub(crate) initrd_path: Option<PathBuf>,
    #[serde(default)]
    pub(crate) boot_args: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MachineConfig {
    pub(crate) vcpu_count: u8,
    pub(crate) mem_size_mib: u64,
    #[serde(default)]
    pub(crate) smt: bool,
    #[serde(default)]
    pub(crate) track_dirty_pages: bool,
    #[serde(default)]
    pub(crate) huge_pages: HugePages,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) enum HugePages {
    #[default]
    None,
    Transparent,
    #[serde(rename = "2M")]
    TwoMib,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            vcpu_count: 1,
            mem_size_mib: 128,
            smt: false,
            track_dirty_pages: false,
            huge_pages: HugePages::None,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Drive {
    pub(crate) drive_id: String,
    #[serde(default)]
    pub(crate) partuuid: Option<String>,
    pub(crate) is_root_device: bool,
    #[serde(default)]
    cache_type: CacheType,
    #[serde(default)]
    pub(crate) is_read_only: Option<bool>,
    #[serde(default)]
    pub(crate) path_on_host: Option<PathBuf>,
    #[serde(default)]
    rate_limiter: Option<Value>,
    #[serde(default)]
    io_engine: IoEngine,
    #[serde(default)]
    socket: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
enum CacheType {
    #[default]
    Unsafe,
    Writeback,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
enum IoEngine {
    #[default]
    Sync,
    Async,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct DriveUpdate {
    #[serde(default)]
    pub(crate) path_on_host: Option<PathBuf>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NetworkInterface {
    pub(crate) iface_id: String,
    pub(crate) host_dev_name: String,
    #[serde(default)]
    pub(crate) guest_mac: Option<Mac>,
    #[serde(default)]
    mtu: Option<u16>,
    #[serde(default)]
    rx_rate_limiter: Option<Value>,
    #[serde(default)]
    tx_rate_limiter: Option<Value>,
}

/// A hardware address: six pairs of hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl TryFrom<String> for Mac {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let pair = |it: &str| u8::from_str_radix(it, 16).ok().filter(|_| it.len() == 2);
        let bytes: Option<Vec<u8>> = text.split(':').map(pair).collect();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("The provided MAC address is invalid.")
    }
}

impl From<Mac> for String {
    fn from(Mac(bytes): Mac) -> Self {
        bytes.map(|byte| format!("{byte:02x}")).join(":")
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Vsock {
    pub(crate) guest_cid: u32,
    pub(crate) uds_path: PathBuf,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Balloon {
    pub(crate) amount_mib: u64,
    pub(crate) deflate_on_oom: bool,
    #[serde(default)]
    pub(crate) stats_polling_interval_s: u16,
    /// Known, and shown, since 1.14.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) free_page_hinting: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) free_page_reporting: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct BalloonUpdate {
    pub(crate) amount_mib: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct BalloonStatsUpdate {
    pub(crate) stats_polling_interval_s: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum ActionType {
    FlushMetrics,
    InstanceStart,
    SendCtrlAltDel,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ActionBody {
    pub(crate) action_type: ActionType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum WantedState {
    Paused,
    Resumed,
}

#[derive(Debug, Deserialize)]
pub(crate) struct StateBody {
    pub(crate) state: WantedState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(crate) enum SnapshotType {
    #[default]
    Full,
    Diff,
}

#[derive(Debug, Deserialize)]
pub(crate) struct CreateSnapshot {
    pub(crate) mem_file_path: PathBuf,
    pub(crate) snapshot_path: PathBuf,
    #[serde(default)]
    pub(crate) snapshot_type: SnapshotType,
}

#[derive(Debug, Deserialize)]
pub(crate) struct LoadSnapshot {
    pub(crate) snapshot_path: PathBuf,
    #[serde(default)]
    pub(crate) mem_file_path: Option<PathBuf>,
    #[serde(default)]
    pub(crate) mem_backend: Option<MemoryBackend>,
    #[serde(default)]
    pub(crate) resume_vm: bool,
    #[serde(default)]
    pub(crate) network_overrides: Vec<NetworkOverride>,
    #[serde(default)]
    pub(crate) vsock_override: Option<VsockOverride>,
}

impl LoadSnapshot {
    /// The file with the guest's memory. One of two fields names it, and never both.
    pub(crate) fn memory(&self) -> Result<&PathBuf, Refusal> {
        match (&self.mem_backend, &self.mem_file_path) {
            (Some(_), Some(_)) => Err(Refusal::body(
                "too many fields: either `mem_backend` or `mem_file_path` exclusively is required",
            )),
            (None, None) => Err(Refusal::body(
                "missing field: either `mem_backend` or `mem_file_path` is required",
            )),
            (Some(MemoryBackend { backend_path, .. }), None) => Ok(backend_path),
            (None, Some(path)) => Ok(path),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemoryBackend {
    pub(crate) backend_path: PathBuf,
    #[serde(rename = "backend_type")]
    _backend_type: BackendType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum BackendType {
    File,
    Uffd,
}

#[derive(Debug, Deserialize)]
pub(crate) struct NetworkOverride {
    pub(crate) iface_id: String,
    pub(crate) host_dev_name: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct VsockOverride {
    pub(crate) uds_path: PathBuf,
}

#[derive(Debug, Deserialize)]
pub(crate) struct LoggerBody {
    #[serde(default)]
    pub(crate) log_path: Option<PathBuf>,
    #[serde(default, rename = "level")]
    _level: Option<Level>,
}

/// How much is logged; of no effect here.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Level;

impl TryFrom<String> for Level {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let known = ["off", "error", "warn", "warning", "info", "debug", "trace"];
        let known = known.iter().any(|level| text.eq_ignore_ascii_case(level));
        known.then_some(Self).ok_or("Invalid LevelFilter")
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct MetricsBody {
    pub(crate) metrics_path: PathBuf,
}

#[derive(Debug, Deserialize)]
pub(crate) struct SerialBody {
    #[serde(default)]
    pub(crate) serial_out_path: Option<PathBuf>,
}
