//! What a VM is made of: sizes with their bounds, its driver and its network.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

macro_rules! bounded {
    ($($(#[$doc:meta])* $name:ident: $range:expr, $unit:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(u32);

        impl $name {
            /// The smallest value.
            pub const MIN: u32 = *$range.start();
            /// The largest value.
            pub const MAX: u32 = *$range.end();

            /// The number.
            pub const fn get(self) -> u32 {
                self.0
            }
        }

        impl TryFrom<u32> for $name {
            type Error = String;

            fn try_from(value: u32) -> Result<Self, String> {
                if $range.contains(&value) {
                    Ok(Self(value))
                } else {
                    Err(format!("{value} is not allowed: give {} to {} {}", Self::MIN, Self::MAX, $unit))
                }
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let value: u32 = text.parse().map_err(|_| format!("{text:?} is not a whole number of {}", $unit))?;
                Self::try_from(value)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::try_from(u32::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::Integer)
                    .minimum(Some(Self::MIN))
                    .maximum(Some(Self::MAX))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}
    )+};
}

bounded! {
    /// Virtual CPUs. Firecracker's own limit is 32.
    Vcpus: 1..=32, "vCPUs";
    /// Guest memory. Small enough to ask for what cannot boot, so that the VM can say why.
    MemoryMib: 16..=1_048_576, "MiB of memory";
    /// The writable disk.
    DiskMib: 16..=1_048_576, "MiB of disk";
}

/// The VMM that runs a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriverKind {
    /// Firecracker over KVM.
    Firecracker,
    /// QEMU, over KVM where a probe guest boots with it, else with software emulation.
    Qemu,
    /// The agent as a plain child process: no isolation, for tests and demonstrations.
    Process,
    /// A model of a VM that runs nothing: for benchmarks alone.
    Simulated,
}

impl DriverKind {
    /// The driver's name, as in `--driver`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Firecracker => "firecracker",
            Self::Qemu => "qemu",
            Self::Process => "process",
            Self::Simulated => "simulated",
        }
    }

    /// Whether its VMs start from a template and have disks.
    pub const fn starts_from_template(self) -> bool {
        match self {
            Self::Firecracker | Self::Qemu => true,
            Self::Process | Self::Simulated => false,
        }
    }
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which driver a worker is to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DriverChoice {
    /// The first that passes its preflight; never `process`.
    #[default]
    Auto,
    /// This one, or none.
    Only(DriverKind),
}

impl FromStr for DriverChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "firecracker" => Ok(Self::Only(DriverKind::Firecracker)),
            "qemu" => Ok(Self::Only(DriverKind::Qemu)),
            "process" => Ok(Self::Only(DriverKind::Process)),
            // For `aetherium bench`, which has workers of its own; nobody else is told of it.
            "simulated" => Ok(Self::Only(DriverKind::Simulated)),
            _ => Err(format!("{text:?} is not a driver: give auto, firecracker, qemu or process")),
        }
    }
}

impl fmt::Display for DriverChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Only(kind) => kind.fmt(f),
        }
    }
}

/// What a VM may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// Nothing: only the host reaches the agent.
    #[default]
    Isolated,
    /// Outbound connections. Under user-mode networking this includes the host's own loopback.
    Egress,
}

impl FromStr for NetworkMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "isolated" => Ok(Self::Isolated),
            "egress" => Ok(Self::Egress),
            _ => Err(format!("{text:?} is not a network mode: give isolated or egress")),
        }
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Isolated => "isolated",
            Self::Egress => "egress",
        })
    }
}

/// How a guest reaches its virtio devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VirtioTransport {
    /// As devices of a PCI bus.
    Pci,
    /// As registers in memory.
    Mmio,
}

impl VirtioTransport {
    /// The transport's name, as in `--transport`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pci => "pci",
            Self::Mmio => "mmio",
        }
    }
}

impl FromStr for VirtioTransport {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pci" => Ok(Self::Pci),
            "mmio" => Ok(Self::Mmio),
            _ => Err(format!("{text:?} is not a virtio transport: give pci or mmio")),
        }
    }
}

impl fmt::Display for VirtioTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The size of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Resources {
    /// Virtual CPUs.
    pub vcpus: Vcpus,
    /// Guest memory in MiB.
    pub memory_mib: MemoryMib,
    /// Writable disk in MiB; sparse, so that unused space costs nothing.
    pub disk_mib: DiskMib,
}

impl Default for Resources {
    fn default() -> Self {
        Self { vcpus: Vcpus(1), memory_mib: MemoryMib(512), disk_mib: DiskMib(2048) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_outside_its_bounds_is_refused_with_the_bounds() {
        let error = serde_json::from_str::<Vcpus>("33").unwrap_err().to_string();
        assert!(error.contains("33") && error.contains("1 to 32 vCPUs"), "{error}");
        assert!(serde_json::from_str::<MemoryMib>("0").is_err());
        assert!("4x".parse::<DiskMib>().is_err());
    }
}
