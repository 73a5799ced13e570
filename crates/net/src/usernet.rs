//! User-mode networking: a guest's whole network inside its VMM process, with one forwarded port.
//!
//! Needs no privilege and no interface. The forward is bound by the VMM itself to port 0 of the
//! host's loopback, so that the kernel chooses a free port, and is then read back from the very
//! process that holds it: nobody can be handed another VM's port.

use crate::GuestNet;
use aetherium_model::resources::NetworkMode;
use std::net::{Ipv4Addr, SocketAddr};

/// QEMU's `-netdev` value for a guest that is to see `net`, with the agent's port forwarded from a
/// free port of the host's loopback.
///
/// [`NetworkMode::Isolated`] becomes `restrict=on`: of what the guest sends, only DHCP and answers
/// through the forward get anywhere; its name server is silent, too.
pub fn netdev(id: &str, net: &GuestNet, mode: NetworkMode, agent_port: u16) -> String {
    let restrict = match mode {
        NetworkMode::Isolated => "on",
        NetworkMode::Egress => "off",
    };
    format!(
        "user,id={id},ipv6=off,restrict={restrict},net={network}/{prefix},host={gateway},\
         dhcpstart={address},dns={dns},hostfwd=tcp:{loopback}:0-{address}:{agent_port}",
        network = net.network(),
        prefix = net.prefix,
        gateway = net.gateway,
        address = net.address,
        dns = net.dns,
        loopback = Ipv4Addr::LOCALHOST,
    )
}

/// The host's end of the forward to the guest's `agent_port`, from the monitor's `info usernet`.
///
/// Each connection is one row: `protocol[state] fd source-address source-port destination-address
/// destination-port …`, and a forward's state is `HOST_FORWARD`. A port of 0 means that it is not
/// bound (yet), and is no forward.
pub fn forwarded(info: &str, net: &GuestNet, agent_port: u16) -> Option<SocketAddr> {
    info.lines().find_map(|line| {
        let mut fields = line.trim().strip_prefix("TCP[HOST_FORWARD]")?.split_whitespace().skip(1);
        let host: Ipv4Addr = fields.next()?.parse().ok()?;
        let port: u16 = fields.next()?.parse().ok()?;
        let to: Ipv4Addr = fields.next()?.parse().ok()?;
        let to_port: u16 = fields.next()?.parse().ok()?;
        (port != 0 && to == net.address && to_port == agent_port)
            .then(|| SocketAddr::from((host, port)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As QEMU 7.2 prints it, with a connection of the guest's beside the forward.
    const INFO: &str = "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   \
        Dest. Address  Port RecvQ SendQ\r\n  TCP[ESTABLISHED]  15      172.16.0.2 40212       \
        10.0.0.1  9999     0     0\r\n  TCP[HOST_FORWARD]   9       127.0.0.1 40229      \
        172.16.0.2  9999     0     0\r\n";

    #[test]
    fn the_forward_is_read_back_from_the_process_that_holds_it() {
        let expected: SocketAddr = "127.0.0.1:40229".parse().unwrap();
        assert_eq!(forwarded(INFO, &GuestNet::COMMON, 9999), Some(expected));
    }

    #[test]
    fn another_forward_is_not_the_agents() {
        assert_eq!(forwarded(INFO, &GuestNet::COMMON, 22), None);
        let elsewhere = GuestNet { address: Ipv4Addr::new(10, 0, 2, 15), ..GuestNet::COMMON };
        assert_eq!(forwarded(INFO, &elsewhere, 9999), None);
        assert_eq!(forwarded(&INFO.replace("40229", "0"), &GuestNet::COMMON, 9999), None);
    }

    #[test]
    fn an_isolated_guest_is_restricted_and_reachable_through_the_forward_alone() {
        let isolated = netdev("n", &GuestNet::COMMON, NetworkMode::Isolated, 9999);
        assert_eq!(
            isolated,
            "user,id=n,ipv6=off,restrict=on,net=172.16.0.0/24,host=172.16.0.1,\
             dhcpstart=172.16.0.2,dns=172.16.0.3,hostfwd=tcp:127.0.0.1:0-172.16.0.2:9999"
        );
        let egress = netdev("n", &GuestNet::COMMON, NetworkMode::Egress, 9999);
        assert_eq!(egress, isolated.replace("restrict=on", "restrict=off"));
    }

    proptest! {
        #[test]
        fn whatever_the_monitor_says_reading_it_does_not_fail(info in "(TCP\\[HOST_FORWARD\\])?[ -~\\n]{0,120}") {
            let _ = forwarded(&info, &GuestNet::COMMON, 9999);
        }
    }
}
