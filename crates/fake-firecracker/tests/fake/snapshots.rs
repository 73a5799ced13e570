//! Snapshots: when they can be taken, and when they load.

use crate::harness::{Fake, PATIENCE, Place, SILENCE, agent_at};
use http::Method;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, time::timeout};

async fn running(place: &Place, version: &str) -> Fake {
    let fake = place.fake("origin", &[], json!({ "version": version })).await;
    fake.configure(place, "quiet").await;
    fake.start().await;
    agent_at(fake.vsock()).wait_ready(PATIENCE).await.unwrap();
    fake
}

fn files(place: &Place) -> Value {
    json!({"mem_file_path": place.path("memory"), "snapshot_path": place.path("state")})
}

/// A snapshot of a guest that is gone again.
async fn taken(place: &Place, version: &str) {
    let fake = running(place, version).await;
    fake.set_state("Paused").await;
    fake.put("/snapshot/create", files(place)).await;
}

fn load(place: &Place, and: Value) -> Value {
    let backend = json!({"backend_type": "File", "backend_path": place.path("memory")});
    let mut body = json!({"snapshot_path": place.path("state"), "mem_backend": backend});
    body.as_object_mut().unwrap().extend(and.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn a_snapshot_is_taken_of_a_paused_guest_alone_and_cuts_its_connections() {
    let place = Place::new();
    let fake = running(&place, "1.16.1").await;
    let agent = agent_at(fake.vsock());
    agent.hello().await.unwrap();
    let mut open = crate::vsock::dial(&fake.vsock(), "CONNECT 9999\n").await;
    open.read_exact(&mut [0; 3]).await.unwrap();
    let said = fake.refused(Method::PUT, "/snapshot/create", files(&place)).await;
    assert!(
        said.contains("Operation not allowed: save/restore unavailable while running"),
        "{said}"
    );
    fake.set_state("Paused").await;
    fake.put("/snapshot/create", files(&place)).await;
    assert_eq!(std::fs::metadata(place.path("memory")).unwrap().len(), 128 << 20);
    crate::vsock::answer(open).await;
    fake.set_state("Resumed").await;
    // The old connection is dead; a new one comes about.
    agent.wait_ready(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_loads_into_a_fresh_process_at_another_socket() {
    let place = Place::new();
    taken(&place, "1.16.1").await;
    let fake = place.fake("clone", &[], json!({})).await;
    let body = load(&place, json!({"vsock_override": {"uds_path": fake.vsock()}}));
    fake.put("/snapshot/load", body).await;
    assert_eq!(fake.state().await, "Paused");
    assert!(timeout(SILENCE, agent_at(fake.vsock()).hello()).await.is_err());
    fake.set_state("Resumed").await;
    agent_at(fake.vsock()).wait_ready(PATIENCE).await.unwrap();
    assert_eq!(fake.get("/machine-config").await["mem_size_mib"], 128);
}

#[tokio::test]
async fn a_load_after_configuration_is_refused_and_nothing_is_lost() {
    let place = Place::new();
    taken(&place, "1.16.1").await;
    let fake = place.fake("clone", &[], json!({})).await;
    fake.configure(&place, "quiet").await;
    let said = fake.refused(Method::PUT, "/snapshot/load", load(&place, json!({}))).await;
    let expected = "Load snapshot error: Loading a microVM snapshot not allowed after configuring \
                    boot-specific resources.";
    assert_eq!(said, expected);
    fake.start().await;
}

#[tokio::test]
async fn a_load_that_fails_is_answered_and_ends_the_process_with_code_1() {
    let place = Place::new();
    taken(&place, "1.15.1").await;
    let missing = json!({"snapshot_path": place.path("gone")});
    for (name, version, and, says) in [
        ("missing", "1.15.1", missing, "Failed to open snapshot file"),
        ("other", "1.14.0", json!({}), "Invalid data version: 9.0.0"),
        // The old socket is still there.
        ("taken", "1.15.1", json!({}), "Error binding to the host-side Unix socket"),
    ] {
        let mut fake = place.fake(name, &[], json!({ "version": version })).await;
        let said = fake.refused(Method::PUT, "/snapshot/load", load(&place, and)).await;
        assert!(said.starts_with("Load snapshot error: ") && said.contains(says), "{said}");
        assert_eq!(fake.ended().await, Some(1), "{name}");
    }
}

#[tokio::test]
async fn memory_is_named_by_one_field_and_not_by_two() {
    let place = Place::new();
    let fake = place.plain().await;
    let none = json!({"snapshot_path": "s"});
    let said = fake.refused(Method::PUT, "/snapshot/load", none).await;
    assert!(said.contains("either `mem_backend` or `mem_file_path` is required"), "{said}");
    let two = load(&place, json!({"mem_file_path": "m"}));
    let said = fake.refused(Method::PUT, "/snapshot/load", two).await;
    assert!(said.contains("exclusively is required"), "{said}");
    // Neither was the end: nothing had been touched.
    assert_eq!(fake.state().await, "Not started");
}

#[tokio::test]
async fn before_1_13_a_diff_needs_dirty_pages_to_be_tracked() {
    let place = Place::new();
    let mut diff = files(&place);
    diff["snapshot_type"] = json!("Diff");
    let fake = running(&place, "1.12.1").await;
    fake.set_state("Paused").await;
    let said = fake.refused(Method::PUT, "/snapshot/create", diff.clone()).await;
    assert!(said.contains("dirty page tracking disabled"), "{said}");
    drop(fake);
    let place = Place::new();
    let fake = running(&place, "1.13.0").await;
    fake.set_state("Paused").await;
    fake.put("/snapshot/create", diff).await;
}

#[tokio::test]
async fn version_1_16_0_loses_a_restored_vsock() {
    let place = Place::new();
    taken(&place, "1.16.0").await;
    let fake = place.fake("clone", &[], json!({"version": "1.16.0"})).await;
    let vsock = json!({"vsock_override": {"uds_path": fake.vsock()}, "resume_vm": true});
    fake.put("/snapshot/load", load(&place, vsock)).await;
    assert_eq!(fake.state().await, "Running");
    assert!(agent_at(fake.vsock()).wait_ready(SILENCE).await.is_err());
}
