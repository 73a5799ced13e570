//! Faults that a test asks for.

use crate::harness::{Place, SILENCE, agent_at};
use http::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

fn fault(at: &str, deed: Value) -> Value {
    json!({"faults": [{"at": at, "do": deed}]})
}

#[tokio::test]
async fn a_call_is_refused_as_told() {
    let place = Place::new();
    let fake = place.fake("fc", &[], fault("PUT /logger", json!({"refuse": "no such luck"}))).await;
    assert_eq!(fake.refused(Method::PUT, "/logger", json!({})).await, "no such luck");
    assert_eq!(fake.state().await, "Not started");
}

#[tokio::test]
async fn a_call_is_answered_with_garbage_as_often_as_told() {
    let place = Place::new();
    let garbage = json!({"faults": [{"at": "GET /", "do": "garbage", "times": 1}]});
    let fake = place.fake("fc", &[], garbage).await;
    let (status, body) = fake.call(Method::GET, "/", None).await;
    assert!(status == 200 && body.is_string(), "{body}");
    assert_eq!(fake.state().await, "Not started");
}

#[tokio::test]
async fn a_call_that_hangs_hangs_all_after_it() {
    let place = Place::new();
    let fake = place.fake("fc", &[], fault("PUT /logger", json!("hang"))).await;
    let hung = timeout(SILENCE, fake.try_call(Method::PUT, "/logger", Some(json!({})))).await;
    assert!(hung.is_err(), "{hung:?}");
}

#[tokio::test]
async fn it_dies_or_ends_at_the_call_that_is_meant() {
    let place = Place::new();
    for (name, deed, code) in
        [("dies", json!("die"), None), ("ends", json!({"exit": 148}), Some(148))]
    {
        let mut fake = place.fake(name, &[], fault("PUT /actions InstanceStart", deed)).await;
        fake.configure(&place, "quiet").await;
        let start = json!({"action_type": "InstanceStart"});
        fake.try_call(Method::PUT, "/actions", Some(start)).await.unwrap_err();
        assert_eq!(fake.ended().await, code, "{name}");
    }
}

#[tokio::test]
async fn it_ends_before_it_listens() {
    let place = Place::new();
    let mut program = place.program("fc", fault("start", json!({"exit": 1})));
    let output = program.arg("--api-sock").arg(place.path("fc.sock")).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(!place.path("fc.sock").exists());
}

#[tokio::test]
async fn a_resumed_guest_can_lose_its_vsock() {
    let place = Place::new();
    let fake = place.fake("fc", &[], json!({"vsock": "lost_by_resume"})).await;
    fake.configure(&place, "quiet").await;
    fake.start().await;
    agent_at(fake.vsock()).wait_ready(crate::harness::PATIENCE).await.unwrap();
    // A snapshot between the two cures it.
    fake.set_state("Paused").await;
    let files =
        json!({"mem_file_path": place.path("memory"), "snapshot_path": place.path("state")});
    fake.put("/snapshot/create", files).await;
    fake.set_state("Resumed").await;
    agent_at(fake.vsock()).wait_ready(crate::harness::PATIENCE).await.unwrap();
    fake.set_state("Paused").await;
    fake.set_state("Resumed").await;
    assert!(agent_at(fake.vsock()).wait_ready(SILENCE).await.is_err());
}
