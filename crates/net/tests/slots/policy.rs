//! Who reaches whom.

use crate::{
    guest::Guest,
    host::{CLOSED, HOST, Host, PORT, RESOLVER, SERVER, on_a_host},
    namespace::Namespace,
};
use aetherium_model::{
    VmId,
    resources::NetworkMode::{self, Egress, Isolated},
};
use aetherium_net::{GuestNet, Mac, Slot, Slots, SlotsConfig};
use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    time::Duration,
};

const AGENT: u16 = 9999;
/// How long to wait for what should not come, where no refusal tells.
const SILENCE: Duration = Duration::from_millis(400);

/// A slot with a guest in it, whose agent greets.
async fn inhabited(slots: &Slots, mode: NetworkMode) -> (Slot, Guest) {
    let slot = slots.acquire(VmId::new(), mode).await.unwrap();
    let guest = Guest::plugged_into(&slot);
    guest.network.greet(AGENT);
    (slot, guest)
}

async fn assert_refused(guest: &Guest, to: Ipv4Addr, port: u16) {
    let error = guest.network.call((to, port)).await.expect_err(&format!("{to} is reached"));
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{to}: {error}");
}

async fn assert_host_reaches(host: &Host, to: Ipv4Addr) {
    let greeting = host.network.call((to, PORT)).await;
    assert!(greeting.is_ok(), "the test's own server {to} does not answer: {greeting:?}");
}

#[test]
fn the_agent_of_every_guest_is_reached_from_the_host_alone() {
    on_a_host(async |host| {
        let slots = host.slots().await;
        for mode in [Isolated, Egress] {
            let (slot, _guest) = inhabited(&slots, mode).await;
            // The guest sees its gateway calling, whatever the host's addresses are.
            let seen = host.network.call(slot.reach(AGENT)).await.unwrap();
            assert_eq!(seen, GuestNet::COMMON.gateway.to_string());
            host.network.ping(slot.address).await.unwrap();
            // A neighbour of the host that routes the slot's address to it.
            host.internet.ip("route replace 198.19.0.0/16 via 5.5.5.5");
            host.internet.call((HOST, PORT)).await.unwrap();
            let error = host.internet.call_within(slot.reach(AGENT), SILENCE).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        }
    });
}

#[test]
fn a_guest_with_egress_reaches_the_internet_under_the_hosts_address() {
    on_a_host(async |host| {
        let slots = host.slots().await;
        let (_slot, guest) = inhabited(&slots, Egress).await;
        assert_eq!(guest.network.call((SERVER, PORT)).await.unwrap(), HOST.to_string());
        guest.network.ping(SERVER).await.unwrap();
    });
}

#[test]
fn private_link_local_and_reserved_addresses_are_closed_to_a_guest_with_egress() {
    on_a_host(async |host| {
        let slots = host.slots().await;
        let (_slot, guest) = inhabited(&slots, Egress).await;
        for closed in CLOSED {
            assert_host_reaches(host, closed).await;
            assert_refused(&guest, closed, PORT).await;
            guest.network.ping(closed).await.unwrap_err();
        }
        guest.network.call((SERVER, PORT)).await.unwrap();
    });
}

#[test]
fn an_isolated_guest_reaches_nothing_but_its_gateway() {
    on_a_host(async |host| {
        let slots = host.slots().await;
        let (_slot, guest) = inhabited(&slots, Isolated).await;
        guest.network.ping(GuestNet::COMMON.gateway).await.unwrap();
        for closed in CLOSED.into_iter().chain([SERVER]) {
            assert_host_reaches(host, closed).await;
            assert_refused(&guest, closed, PORT).await;
        }
        guest.network.ask((GuestNet::COMMON.dns, 53)).await.unwrap_err();
    });
}

#[test]
fn no_guest_reaches_the_host_under_any_of_its_addresses() {
    on_a_host(async |host| {
        let slots = host.slots().await;
        assert_eq!(host.internet.call((HOST, PORT)).await.unwrap(), "5.5.5.1");
        for mode in [Isolated, Egress] {
            let (slot, guest) = inhabited(&slots, mode).await;
            let gateway = slot.guest.gateway;
            for closed in [slot.host_address, slot.address, gateway] {
                assert_refused(&guest, closed, PORT).await;
            }
            // A globally reachable address of the host is closed by the host itself, which is silent.
            let error = guest.network.call_within((HOST, PORT), SILENCE).await.unwrap_err();
            let expected = match mode {
                Isolated => io::ErrorKind::ConnectionRefused,
                Egress => io::ErrorKind::TimedOut,
            };
            assert_eq!(error.kind(), expected, "{error}");
        }
    });
}

#[test]
fn a_service_that_the_host_publishes_by_redirection_is_closed_to_guests() {
    on_a_host(async |host| {
        let slots = host.slots().await;
        let (_slot, guest) = inhabited(&slots, Egress).await;
        // As container engines publish ports.
        let published = "add table ip other; add chain ip other in \
            { type nat hook prerouting priority dstnat; }; \
            add rule ip other in ip daddr 5.5.5.5 tcp dport 8080 dnat to 93.184.216.34:80";
        let laid = host.network.run(|| std::process::Command::new("nft").arg(published).status());
        assert!(laid.unwrap().success());
        host.internet.ip("address add 5.5.5.9/24 dev net0");
        let error = guest.network.call_within((HOST, 8080), SILENCE).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        guest.network.call((SERVER, PORT)).await.unwrap();
    });
}

#[test]
fn two_slots_cannot_reach_each_other() {
    on_a_host(async |host| {
        let slots = host.slots().await;
        let (first, one) = inhabited(&slots, Egress).await;
        let (second, other) = inhabited(&slots, Egress).await;
        for (guest, slot) in [(&one, &second), (&other, &first)] {
            host.network.call(slot.reach(AGENT)).await.unwrap();
            for address in [slot.address, slot.host_address] {
                assert_refused(guest, address, AGENT).await;
            }
        }
        // Not even with the slots' own fences down.
        for slot in [&first, &second] {
            let inside = Namespace::open(&slot.netns);
            let open = "flush chain inet aetherium through; \
                chain inet aetherium through { policy accept; }; \
                flush chain inet aetherium redirected; \
                add rule inet aetherium redirected iifname up0 dnat ip to 172.16.0.2";
            let laid = inside.run(|| std::process::Command::new("nft").arg(open).status());
            assert!(laid.unwrap().success());
        }
        host.network.call(second.reach(AGENT)).await.unwrap();
        let error = one.network.call_within(second.reach(AGENT), SILENCE).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    });
}

#[test]
fn names_are_asked_of_the_hosts_resolver_even_where_it_is_private() {
    on_a_host(async |host| {
        let slots = host.slots().await;
        let (_slot, guest) = inhabited(&slots, Egress).await;
        let answer = guest.network.ask((GuestNet::COMMON.dns, 53)).await.unwrap();
        assert_eq!(answer, b"who is it?");
        assert_refused(&guest, RESOLVER, PORT).await;
        assert_refused(&guest, GuestNet::COMMON.dns, PORT).await;
    });
}

#[test]
fn several_resolvers_are_asked_in_turn() {
    on_a_host(async |host| {
        let second = Ipv4Addr::new(10, 20, 30, 40);
        host.internet.echo_datagrams(second);
        let mut config = host.config("aet");
        config.resolvers.push(second);
        let slots = Slots::new(config).await.unwrap();
        let (_slot, guest) = inhabited(&slots, Egress).await;
        for _ in 0..4 {
            guest.network.ask((GuestNet::COMMON.dns, 53)).await.unwrap();
        }
    });
}

#[test]
fn a_guest_that_takes_another_address_is_not_heard() {
    on_a_host(async |host| {
        let slots = host.slots().await;
        let honest = GuestNet::COMMON;
        let liars = [
            GuestNet { address: Ipv4Addr::new(172, 16, 0, 9), ..honest },
            GuestNet { mac: Mac([0x06, 0x00, 172, 16, 0, 9]), ..honest },
        ];
        for told in liars {
            let slot = slots.acquire(VmId::new(), Egress).await.unwrap();
            let guest = Guest::told(&slot, told);
            let error = guest.network.call_within((SERVER, PORT), SILENCE).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{told:?}: {error}");
            drop(guest);
            let guest = Guest::plugged_into(&slot);
            guest.network.call((SERVER, PORT)).await.unwrap();
        }
    });
}

#[test]
fn a_guest_that_wakes_up_in_another_slot_needs_to_be_told_nothing() {
    on_a_host(async |host| {
        let slots = host.slots().await;
        let (first, guest) = inhabited(&slots, Egress).await;
        guest.network.call((SERVER, PORT)).await.unwrap();
        let second = slots.acquire(VmId::new(), Egress).await.unwrap();
        slots.release(&first).await.unwrap();
        let guest = guest.moved_to(&second);
        guest.network.call((SERVER, PORT)).await.unwrap();
        host.network.call(second.reach(AGENT)).await.unwrap();
    });
}

#[test]
fn a_guest_has_so_many_connections_at_once_and_no_more() {
    on_a_host(async |host| {
        let slots = Slots::new(SlotsConfig { max_connections: 8, ..host.config("aet") });
        let slots = slots.await.unwrap();
        let (slot, guest) = inhabited(&slots, Egress).await;
        let (_other, neighbour) = inhabited(&slots, Egress).await;
        let dns = (GuestNet::COMMON.dns, 53);
        // Each is asked from another port, and counts until its time is up.
        for _ in 0..8 {
            guest.network.ask(dns).await.unwrap();
        }
        guest.network.ask(dns).await.unwrap_err();
        assert_refused(&guest, SERVER, PORT).await;
        // Neither the host's way to the agent nor anybody else pays for it.
        host.network.call(slot.reach(AGENT)).await.unwrap();
        neighbour.network.ask(dns).await.unwrap();
    });
}

#[test]
fn a_guest_is_not_heard_over_ipv6_even_where_its_slot_speaks_it() {
    on_a_host(async |host| {
        let slots = host.slots().await;
        let (slot, guest) = inhabited(&slots, Egress).await;
        let inside = Namespace::open(&slot.netns);
        let gateway: Ipv6Addr = "fd00:1::1".parse().unwrap();
        for (network, link, address) in
            [(&inside, "tap0", "fd00:1::1"), (&guest.network, "eth0", "fd00:1::2")]
        {
            let file = format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6");
            if !Path::new("/proc/sys/net/ipv6").exists() {
                return eprintln!("SKIPPED: this kernel has no IPv6");
            }
            network.run(|| fs::write(file, "0")).unwrap();
            network.ip(&format!("-6 address add {address}/64 dev {link} nodad"));
        }
        inside.greet_at((gateway, PORT));
        let error = guest.network.call_within((gateway, PORT), SILENCE).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        // With the fence down the same call is heard: it was the fence that closed it.
        let open = "flush chain inet aetherium spoofed; flush chain inet aetherium to_slot; \
            chain inet aetherium to_slot { policy accept; }";
        let laid = inside.run(|| std::process::Command::new("nft").arg(open).status());
        assert!(laid.unwrap().success());
        guest.network.call((gateway, PORT)).await.unwrap();
    });
}
