//! The guest behind a slot's TAP, reached over TCP. Needs root, and says so where it is skipped.

use crate::harness::{PATIENCE, Place};
use aetherium_agent_client::{AgentClient, Deadlines, Endpoint, ExecSpec, Token, collect};
use aetherium_agent_proto::config::{EndsBy, GuestConfig, GuestNet, Transports};
use aetherium_model::{VmId, resources::NetworkMode};
use aetherium_net::{Slot, Slots, SlotsConfig};
use rustix::{
    mount::{MountPropagationFlags, mount_change},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use serde_json::json;
use std::{fs::File, io::Write as _, os::fd::AsFd as _};

fn enter(namespace: &File) {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

fn on_a_host_of_its_own(test: impl AsyncFnOnce(&Place) + Send) {
    if !rustix::process::geteuid().is_root() {
        // Not by a macro, whose output is shown for failed tests alone.
        let _ = writeln!(
            std::io::stderr(),
            "\nSKIPPED network: a TAP needs root; run the tests as root"
        );
        return;
    }
    // Removed once the host is gone, and with it what is mounted there.
    let place = Place::new();
    std::thread::scope(|threads| {
        let host = threads.spawn(|| {
            // SAFETY: this thread alone leaves the machine's network and mounts, and ends with the test.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test(&place));
        });
        if let Err(panic) = host.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn told(slot: &Slot, token: &Token) -> GuestConfig {
    let net = GuestNet {
        routes: Vec::new(),
        address_cidr: format!("{}/{}", slot.guest.address, slot.guest.prefix).parse().unwrap(),
        gateway: Some(slot.guest.gateway),
        dns: vec![slot.guest.dns],
    };
    GuestConfig {
        token: Some(token.clone()),
        net: Some(net),
        transports: Transports { vsock: false, tcp: true },
        ends_by: EndsBy::Restart,
        ..GuestConfig::default()
    }
}

#[test]
fn with_vsock_taken_away_the_agent_is_reached_over_tcp_through_the_slot() {
    on_a_host_of_its_own(async |place| {
        let config = SlotsConfig {
            netns_dir: place.path("netns"),
            claims_dir: place.path("claims"),
            ..SlotsConfig::new("fake".parse().unwrap())
        };
        let slots = Slots::new(config).await.unwrap();
        let slot = slots.acquire(VmId::new(), NetworkMode::Isolated).await.unwrap();
        let (home, inside) =
            (File::open("/proc/thread-self/ns/net").unwrap(), File::open(&slot.netns).unwrap());
        let mut fake = place
            .fake_by("fc", &[], json!({}), |command| {
                enter(&inside);
                let child = command.spawn().unwrap();
                enter(&home);
                child
            })
            .await;
        let token = Token::new("correct-horse-battery-staple").unwrap();
        fake.configure_told(place, &told(&slot, &token)).await;
        let network = json!({
            "iface_id": "eth0", "host_dev_name": slot.tap, "guest_mac": slot.guest.mac,
        });
        fake.put("/network-interfaces/eth0", network).await;
        fake.start().await;
        let endpoint = Endpoint::Tcp { addr: slot.reach(9999), token };
        let agent = AgentClient::new(vec![endpoint], Deadlines::default());
        agent.wait_ready(PATIENCE).await.unwrap();
        let process = agent.exec(ExecSpec::new(["echo", "hi"])).await.unwrap();
        assert_eq!(&collect(process, 1024).await.unwrap().stdout[..], b"hi\n");
        fake.set_state("Paused").await;
        let stuck = tokio::time::timeout(crate::harness::SILENCE, agent.hello()).await;
        assert!(stuck.is_err(), "a paused guest answers");
        fake.set_state("Resumed").await;
        agent.wait_ready(PATIENCE).await.unwrap();
        fake.process.kill().await.unwrap();
        slots.release(&slot).await.unwrap();
    });
}

#[test]
fn a_tap_that_is_not_there_is_named() {
    on_a_host_of_its_own(async |place| {
        let fake = place.plain().await;
        let network = json!({"iface_id": "eth0", "host_dev_name": "a-name-too-long-for-it"});
        let said = fake.refused(http::Method::PUT, "/network-interfaces/eth0", network).await;
        assert!(said.contains("Open tap device failed: Invalid interface name"), "{said}");
    });
}
