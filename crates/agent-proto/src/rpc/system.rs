//! The machine between the wire and this crate's types.

use std::time::Duration;

use super::wire;
use crate::config::{GuestNet, Route};
use crate::system::{
    CpuMetrics, DiskMetrics, InterfaceMetrics, MachineIdentity, MemoryMetrics, Metrics,
};

/// A part of a request that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is no {what}")]
pub struct InvalidNetwork {
    what: &'static str,
    value: String,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<Metrics> for wire::MetricsResponse {
    fn from(metrics: Metrics) -> Self {
        Self {
            uptime_ms: millis(metrics.uptime),
            cpu: wire::CpuMetrics::from(metrics.cpu).into(),
            memory: wire::MemoryMetrics::from(metrics.memory).into(),
            disk: wire::DiskMetrics::from(metrics.disk).into(),
            processes: metrics.processes,
            threads: metrics.threads,
            interfaces: metrics.interfaces.into_iter().map(Into::into).collect(),
            agent_resident_bytes: metrics.agent_resident_bytes,
            ..Self::default()
        }
    }
}

impl From<wire::MetricsResponse> for Metrics {
    fn from(wire: wire::MetricsResponse) -> Self {
        Self {
            uptime: Duration::from_millis(wire.uptime_ms),
            cpu: wire.cpu.into_option().unwrap_or_default().into(),
            memory: wire.memory.into_option().unwrap_or_default().into(),
            disk: wire.disk.into_option().unwrap_or_default().into(),
            processes: wire.processes,
            threads: wire.threads,
            interfaces: wire.interfaces.into_iter().map(Into::into).collect(),
            agent_resident_bytes: wire.agent_resident_bytes,
        }
    }
}

impl From<CpuMetrics> for wire::CpuMetrics {
    fn from(cpu: CpuMetrics) -> Self {
        // A load is not negative, and a fraction of a hundredth means nothing.
        let [load_1m_centi, load_5m_centi, load_15m_centi] =
            cpu.load.map(|load| (load * 100.0).round() as u32);
        Self {
            online: cpu.online,
            busy_ms: millis(cpu.busy),
            idle_ms: millis(cpu.idle),
            steal_ms: millis(cpu.steal),
            load_1m_centi,
            load_5m_centi,
            load_15m_centi,
            ..Self::default()
        }
    }
}

impl From<wire::CpuMetrics> for CpuMetrics {
    fn from(wire: wire::CpuMetrics) -> Self {
        let load = [wire.load_1m_centi, wire.load_5m_centi, wire.load_15m_centi];
        Self {
            online: wire.online,
            busy: Duration::from_millis(wire.busy_ms),
            idle: Duration::from_millis(wire.idle_ms),
            steal: Duration::from_millis(wire.steal_ms),
            load: load.map(|centi| f64::from(centi) / 100.0),
        }
    }
}

/// Two structs with the same fields.
macro_rules! same_fields {
    ($domain:ident { $($field:ident),+ }) => {
        impl From<$domain> for wire::$domain {
            fn from(it: $domain) -> Self {
                Self { $($field: it.$field,)+ ..Self::default() }
            }
        }

        impl From<wire::$domain> for $domain {
            fn from(it: wire::$domain) -> Self {
                Self { $($field: it.$field,)+ }
            }
        }
    };
}

same_fields!(MemoryMetrics {
    total_bytes,
    available_bytes,
    cached_bytes,
    swap_total_bytes,
    swap_free_bytes
});
same_fields!(DiskMetrics { total_bytes, available_bytes, total_inodes, available_inodes });
same_fields!(InterfaceMetrics {
    name,
    received_bytes,
    sent_bytes,
    received_packets,
    sent_packets,
    errors,
    dropped
});

impl From<MachineIdentity> for wire::SetIdentityRequest {
    fn from(identity: MachineIdentity) -> Self {
        Self {
            hostname: identity.hostname,
            network: identity.network.map(wire::Network::from).into(),
            ..Self::default()
        }
    }
}

impl TryFrom<wire::SetIdentityRequest> for MachineIdentity {
    type Error = InvalidNetwork;

    fn try_from(request: wire::SetIdentityRequest) -> Result<Self, InvalidNetwork> {
        let network = request.network.into_option().map(GuestNet::try_from).transpose()?;
        Ok(Self { hostname: request.hostname, network })
    }
}

impl From<GuestNet> for wire::Network {
    fn from(net: GuestNet) -> Self {
        let route = |route: Route| wire::Route {
            to_cidr: route.to_cidr.to_string(),
            via: route.via.to_string(),
            ..wire::Route::default()
        };
        Self {
            address_cidr: net.address_cidr.to_string(),
            gateway: net.gateway.map(|it| it.to_string()),
            dns: net.dns.iter().map(ToString::to_string).collect(),
            routes: net.routes.into_iter().map(route).collect(),
            ..Self::default()
        }
    }
}

impl TryFrom<wire::Network> for GuestNet {
    type Error = InvalidNetwork;

    fn try_from(wire: wire::Network) -> Result<Self, InvalidNetwork> {
        const ADDRESS: &str = "IPv4 address";
        const CIDR: &str = "IPv4 address with a prefix length";
        let route = |route: wire::Route| -> Result<Route, InvalidNetwork> {
            Ok(Route { to_cidr: parse(CIDR, route.to_cidr)?, via: parse(ADDRESS, route.via)? })
        };
        Ok(Self {
            address_cidr: parse(CIDR, wire.address_cidr)?,
            gateway: wire.gateway.map(|it| parse(ADDRESS, it)).transpose()?,
            dns: wire.dns.into_iter().map(|it| parse(ADDRESS, it)).collect::<Result<_, _>>()?,
            routes: wire.routes.into_iter().map(route).collect::<Result<_, _>>()?,
        })
    }
}

fn parse<T: std::str::FromStr>(what: &'static str, value: String) -> Result<T, InvalidNetwork> {
    value.parse().map_err(|_| InvalidNetwork { what, value })
}
