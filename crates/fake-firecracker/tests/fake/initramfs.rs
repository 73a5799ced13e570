//! What a guest does with what its initramfs tells it.

use crate::harness::{PATIENCE, Place, SILENCE, agent_at};
use aetherium_agent_proto::config::{EndsBy, GuestConfig, Mode, Transports};
use serde_json::json;
use tokio::time::timeout;

#[tokio::test]
async fn a_probe_says_that_it_runs_and_ends() {
    let place = Place::new();
    let mut fake = place.plain().await;
    let probe =
        GuestConfig { mode: Mode::Probe, ends_by: EndsBy::Restart, ..GuestConfig::default() };
    fake.configure_told(&place, &probe).await;
    fake.start().await;
    assert_eq!(fake.ended().await, Some(0));
    assert!(fake.console().contains("aetherium-init: probe uptime_ms="), "{}", fake.console());
}

#[tokio::test]
async fn a_guest_that_switches_itself_off_leaves_firecracker_standing() {
    let place = Place::new();
    let mut fake = place.plain().await;
    fake.configure_told(&place, &GuestConfig::default()).await;
    fake.start().await;
    let agent = agent_at(fake.vsock());
    agent.wait_ready(PATIENCE).await.unwrap();
    agent.shutdown().await.unwrap();
    let off = async {
        while !fake.console().contains("reboot: Power down") {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, off).await.expect("it is still on");
    assert_eq!(fake.state().await, "Running");
    assert!(timeout(SILENCE, fake.process.wait()).await.is_err());
}

#[tokio::test]
async fn a_guest_without_vsock_closes_every_connection() {
    let place = Place::new();
    let fake = place.fake("fc", &[], json!({})).await;
    let transports = Transports { vsock: false, tcp: true };
    fake.configure_told(&place, &GuestConfig { transports, ..GuestConfig::default() }).await;
    fake.start().await;
    assert!(agent_at(fake.vsock()).wait_ready(SILENCE).await.is_err());
}
