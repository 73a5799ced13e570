//! Firecracker's API calls before a guest starts, as types.
//!
//! Field names are those of `firecracker.yaml`, Firecracker's own description of its API. A field
//! that is not given is not sent: a version that does not know it refuses the whole body.

use aetherium_model::template::{CpuModifiers, NamedCpuTemplate};
use serde::{Serialize, Serializer, ser::SerializeStruct as _};
use std::{borrow::Cow, fmt};

/// One call to make before `InstanceStart`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiCall {
    /// `PUT /machine-config`.
    MachineConfig(MachineConfig),
    /// `PUT /cpu-config`, with a custom CPU template.
    CpuConfig(CpuModifiers),
    /// `PUT /boot-source`.
    BootSource(BootSource),
    /// `PUT /drives/{drive_id}`.
    Drive(Drive),
    /// `PUT /network-interfaces/{iface_id}`.
    NetworkInterface(NetworkInterface),
    /// `PUT /vsock`.
    Vsock(Vsock),
    /// `PUT /entropy`.
    Entropy(Entropy),
    /// `PUT /balloon`.
    Balloon(Balloon),
}

impl ApiCall {
    /// The call's method.
    pub const fn method(&self) -> Method {
        Method::Put
    }

    /// The path it goes to.
    pub fn path(&self) -> Cow<'static, str> {
        match self {
            Self::MachineConfig(_) => "/machine-config".into(),
            Self::CpuConfig(_) => "/cpu-config".into(),
            Self::BootSource(_) => "/boot-source".into(),
            Self::Drive(drive) => format!("/drives/{}", drive.drive_id).into(),
            Self::NetworkInterface(it) => format!("/network-interfaces/{}", it.iface_id).into(),
            Self::Vsock(_) => "/vsock".into(),
            Self::Entropy(_) => "/entropy".into(),
            Self::Balloon(_) => "/balloon".into(),
        }
    }

    /// What is sent.
    ///
    /// # Errors
    /// None in practice: these types have no value that JSON cannot hold.
    pub fn body(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(Body(self))
    }
}

/// An HTTP method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// `PUT`.
    Put,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put => f.write_str("PUT"),
        }
    }
}

/// The body alone.
struct Body<'a>(&'a ApiCall);

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            ApiCall::MachineConfig(it) => it.serialize(s),
            ApiCall::CpuConfig(it) => it.serialize(s),
            ApiCall::BootSource(it) => it.serialize(s),
            ApiCall::Drive(it) => it.serialize(s),
            ApiCall::NetworkInterface(it) => it.serialize(s),
            ApiCall::Vsock(it) => it.serialize(s),
            ApiCall::Entropy(it) => it.serialize(s),
            ApiCall::Balloon(it) => it.serialize(s),
        }
    }
}

impl Serialize for ApiCall {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut call = s.serialize_struct("ApiCall", 3)?;
        call.serialize_field("method", &self.method())?;
        call.serialize_field("path", &self.path())?;
        call.serialize_field("body", &Body(self))?;
        call.end()
    }
}

/// CPUs and memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MachineConfig {
    /// Virtual CPUs.
    pub vcpu_count: u32,
    /// Memory in MiB.
    pub mem_size_mib: u32,
    /// Whether pairs of virtual CPUs look like threads of one core.
    pub smt: bool,
    /// A CPU template that Firecracker has built in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_template: Option<NamedCpuTemplate>,
    /// Whether written pages are noted, which diff snapshots need.
    pub track_dirty_pages: bool,
    /// The pages of the memory.
    #[serde(skip_serializing_if = "HugePages::is_none")]
    pub huge_pages: HugePages,
}

/// The pages of a guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
pub enum HugePages {
    /// Ordinary pages.
    #[default]
    None,
    /// Huge pages of 2 MiB from the host's pool.
    #[serde(rename = "2M")]
    TwoMib,
    /// Huge pages where the host's kernel finds some.
    Transparent,
}

impl HugePages {
    /// Whether these are ordinary pages.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// Kernel, initramfs and kernel arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootSource {
    /// The kernel.
    pub kernel_image_path: String,
    /// The initramfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<String>,
    /// All arguments: what is given here replaces Firecracker's defaults.
    pub boot_args: String,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drive {
    /// Its id.
    pub drive_id: String,
    /// The raw image.
    pub path_on_host: String,
    /// Whether Firecracker makes it the first disk and names it to the kernel as root.
    pub is_root_device: bool,
    /// Whether the guest may only read it.
    pub is_read_only: bool,
    /// What a flush in the guest does.
    pub cache_type: CacheType,
    /// What it is held to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// What a flush in the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum CacheType {
    /// Nothing: a disk that nobody writes needs none.
    Unsafe,
    /// It reaches the host's disk.
    Writeback,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkInterface {
    /// Its id.
    pub iface_id: String,
    /// The TAP device.
    pub host_dev_name: String,
    /// Its hardware address.
    pub guest_mac: String,
    /// What the guest receives is held to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_rate_limiter: Option<RateLimiter>,
    /// What it sends is held to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_rate_limiter: Option<RateLimiter>,
}

/// The virtio socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vsock {
    /// The guest's context id.
    pub guest_cid: u32,
    /// The Unix socket, which Firecracker makes.
    pub uds_path: String,
}

/// The entropy device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entropy {
    /// What it is held to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// The balloon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Balloon {
    /// Its size in MiB.
    pub amount_mib: u32,
    /// Whether it gives memory back before the guest kills processes for it.
    pub deflate_on_oom: bool,
    /// How often the guest tells of its memory, in seconds; 0: never.
    pub stats_polling_interval_s: u32,
}

/// Limits of bytes and of operations; unlimited where absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RateLimiter {
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<TokenBucket>,
    /// Operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<TokenBucket>,
}

impl fmt::Display for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = [(self.bandwidth, "bytes"), (self.ops, "requests")];
        let each = each.into_iter().filter_map(|(bucket, unit)| {
            bucket.map(|it| format!("{} {unit} in {} ms", it.size, it.refill_time))
        });
        f.write_str(&each.collect::<Vec<_>>().join(" and "))
    }
}

/// `size` tokens every `refill_time` milliseconds, and `one_time_burst` more at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TokenBucket {
    /// How many tokens it holds.
    pub size: u64,
    /// Extra tokens at the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_time_burst: Option<u64>,
    /// Milliseconds to fill it.
    pub refill_time: u64,
}
