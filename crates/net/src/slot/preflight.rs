//! What slots need of their host, as findings.
//!
//! Nothing here fails a driver: without slots a VM is reached over vsock alone, and has no network.
//! Each finding says so where it matters. Looks only; changes nothing.

use super::{
    NetError, SlotsConfig, VethRange,
    claims::{Claim, Claims},
    config::usable_resolver,
    firewall::Nft,
    links::{Links, drive},
    namespace::on_thread,
    tap,
};
use aetherium_model::finding::Finding;
use rustix::thread::{CapabilitySet, capabilities};
use std::{collections::HashMap, fs, net::Ipv4Addr};

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Looks at everything that a pool with this configuration would need.
pub async fn preflight(config: &SlotsConfig) -> Vec<Finding> {
    vec![
        privilege(),
        nft(config),
        tun(),
        forwarding(),
        range(config).await,
        resolvers(&config.resolvers).await,
        other_firewalls(config).await,
    ]
}

/// Whether this process may make namespaces and interfaces.
pub(super) fn privileged() -> Result<(), NetError> {
    // Networks and their rules; namespaces and their mounts.
    let wanted =
        [(CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"), (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN")];
    let held = capabilities(None)
        .map_err(|error| NetError::io("read the capabilities of", "/proc/self")(error.into()))?;
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|(it, _)| !held.effective.contains(*it))
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(NetError::NotPrivileged { missing: missing.join(" and ") })
    }
}

/// Whether the calling thread's namespace forwards IPv4 packets.
pub(super) fn forwards() -> Result<bool, NetError> {
    let text = fs::read_to_string(FORWARDING).map_err(NetError::io("read", FORWARDING))?;
    Ok(text.trim() == "1")
}

/// Whether the calling thread's namespace has no route into `range`, but those to slots.
pub(super) fn range_is_free(range: VethRange, claims: &Claims) -> Result<(), NetError> {
    let routes = drive("list routes", async { Links::open()?.routes().await })?;
    match overlapping(range, &routes, &claims.all()?) {
        Some((network, prefix)) => Err(NetError::RangeTaken { range, network, prefix }),
        None => Ok(()),
    }
}

fn overlapping(
    range: VethRange,
    routes: &[(Ipv4Addr, u8)],
    claims: &HashMap<Ipv4Addr, Claim>,
) -> Option<(Ipv4Addr, u8)> {
    let of_a_slot = |(network, prefix): &(Ipv4Addr, u8)| {
        *prefix == VethRange::PAIR_PREFIX && claims.contains_key(network)
    };
    routes
        .iter()
        .filter(|route| !of_a_slot(route))
        .find(|(network, prefix)| range.overlaps(*network, *prefix))
        .copied()
}

fn warn(check: &str, why: &str, error: &NetError) -> Finding {
    Finding::warn(check, format!("{error}: vsock only"), why, error.remedy())
}

fn privilege() -> Finding {
    let (check, why) = ("net.privilege", "each VM's network is a namespace with interfaces");
    match privileged() {
        Ok(()) => Finding::ok(check, "CAP_NET_ADMIN and CAP_SYS_ADMIN", why),
        Err(error) => warn(check, why, &error),
    }
}

fn nft(config: &SlotsConfig) -> Finding {
    let (check, why) = ("net.nft", "the rules that keep VMs apart are laid by nft");
    match Nft::find(config.nft.as_deref()) {
        Ok(nft) => Finding::ok(check, nft.path().display().to_string(), why),
        Err(error) => warn(check, why, &error),
    }
}

fn tun() -> Finding {
    let (check, why) = ("net.tun", "a guest's network cable is a TAP device");
    match fs::OpenOptions::new().read(true).write(true).open(tap::DEVICE) {
        Ok(_) => Finding::ok(check, format!("{} opens", tap::DEVICE), why),
        Err(error) => {
            let found = format!("{} does not open: {error}: vsock only", tap::DEVICE);
            Finding::warn(check, found, why, "modprobe tun, and run as root")
        }
    }
}

fn forwarding() -> Finding {
    let (check, why) = ("net.forwarding", "VMs with egress reach the internet through this host");
    match forwards() {
        Ok(true) => Finding::ok(check, "net.ipv4.ip_forward is 1", why),
        Ok(false) => {
            let error = NetError::ForwardingOff;
            Finding::warn(check, "net.ipv4.ip_forward is 0: no VM with egress", why, error.remedy())
        }
        Err(error) => warn(check, why, &error),
    }
}

async fn range(config: &SlotsConfig) -> Finding {
    let (check, why) =
        ("net.range", "host and slots need addresses that mean nothing else to this host");
    let (range, dir) = (config.range, config.claims_dir.clone());
    let look = move || range_is_free(range, &Claims::at(&dir));
    match on_thread("look at routes", look, drop).await {
        Ok(()) => Finding::ok(check, format!("{range} is free"), why),
        Err(error) => warn(check, why, &error),
    }
}

/// Whether another firewall of the host, such as a container engine's, drops what VMs send. What one
/// table lets through, another may still drop.
async fn other_firewalls(config: &SlotsConfig) -> Finding {
    let (check, why) = ("net.firewall", "VMs with egress need every firewall of the host to agree");
    let (nft, own) = (Nft::find(config.nft.as_deref()), config.prefix.clone());
    let look = move || {
        let nft = nft?;
        drive("list the host's rules", async { nft.chains().await })
    };
    let dropping = match on_thread("look at the host's rules", look, drop).await {
        Ok(chains) => {
            chains.into_iter().find(|it| it.drops_forwarded() && it.table != own.as_str())
        }
        Err(error) => return warn(check, why, &error),
    };
    match dropping {
        None => Finding::ok(check, "no other drops what is forwarded", why),
        Some(chain) => Finding::warn(
            check,
            format!("{chain} drops what is forwarded and not allowed: no VM with egress"),
            why,
            format!(
                "allow {own}-* there both ways; with Docker: iptables -I DOCKER-USER -i {own}-+ -j \
                 ACCEPT, and the same with -o"
            ),
        ),
    }
}

async fn resolvers(configured: &[Ipv4Addr]) -> Finding {
    let (check, why) = ("net.resolvers", "VMs with egress resolve names by the host's resolvers");
    let remedy = "name resolvers outside this host in the configuration";
    let list = || drive("list addresses", async { Links::open()?.addresses().await });
    let own = match on_thread("look at addresses", list, drop).await {
        Ok(own) => own,
        Err(error) => return warn(check, why, &error),
    };
    let usable: Vec<&Ipv4Addr> = configured.iter().filter(|it| usable_resolver(it)).collect();
    if let Some(closed) = usable.iter().find(|it| own.contains(it)) {
        let found = format!("{closed} is this host's own address, which is closed to VMs");
        return Finding::warn(check, found, why, remedy);
    }
    if usable.is_empty() {
        let found = "none that a VM could be redirected to: names will not resolve in VMs";
        return Finding::warn(check, found, why, remedy);
    }
    let usable: Vec<String> = usable.into_iter().map(ToString::to_string).collect();
    Finding::ok(check, usable.join(", "), why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aetherium_model::VmId;

    #[test]
    fn a_route_into_the_range_takes_it_unless_it_leads_to_a_slot() {
        let range: VethRange = "10.9.0.0/16".parse().unwrap();
        let block = Ipv4Addr::new(10, 9, 0, 4);
        let claim = Claim::new(&"aet".parse().unwrap(), 1, VmId::new());
        let claims = HashMap::from([(block, claim)]);
        let elsewhere = (Ipv4Addr::new(192, 168, 0, 0), 16);
        assert_eq!(overlapping(range, &[elsewhere, (block, 30)], &claims), None);
        assert_eq!(overlapping(range, &[(block, 30)], &HashMap::new()), Some((block, 30)));
        for taken in
            [(Ipv4Addr::new(10, 0, 0, 0), 8), (Ipv4Addr::new(10, 9, 3, 0), 24), (block, 32)]
        {
            assert_eq!(overlapping(range, &[elsewhere, taken], &claims), Some(taken));
        }
    }
}
