//! Readiness is what is true now, not what was true before.

use crate::server::Server;
use aetherium_gateway::api::Readiness;
use aetherium_model::{
    WorkerId,
    finding::{Finding, Verdict},
    worker::WorkerState,
};
use http::StatusCode;

async fn failing(server: &Server) -> Vec<String> {
    let answer = server.get("/ready").await;
    let readiness: Readiness = answer.parse();
    assert_eq!(readiness.ready, answer.status == StatusCode::OK);
    let failed = readiness.checks.iter().filter(|check| check.verdict == Verdict::Fail);
    let failed: Vec<_> = failed.map(|check| check.check.clone()).collect();
    assert_eq!(readiness.ready, failed.is_empty(), "{readiness:?}");
    assert!(failed.is_empty() || answer.status == StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(server.get("/health").await.json()["status"], "ok");
    failed
}

#[tokio::test]
async fn ready_is_when_store_queue_worker_and_driver_all_pass() {
    let server = Server::start().await;
    let readiness: Readiness = server.get("/ready").await.parse();
    let names: Vec<_> = readiness.checks.iter().map(|check| check.check.as_str()).collect();
    assert_eq!(names, ["store", "queue", "worker", "driver"]);
    assert!(failing(&server).await.is_empty());
}

#[tokio::test]
async fn a_worker_that_does_not_answer_is_not_alive_whatever_its_row_says() {
    let mut server = Server::start().await;
    server.worker.kill().await;
    assert_eq!(failing(&server).await, ["worker"]);
}

#[tokio::test]
async fn a_driver_that_fails_its_check_now_is_named() {
    let server = Server::start().await;
    let finding = Finding::fail("kvm.probe", "/secret/path", "", "");
    server.worker.seen.findings.lock().unwrap().push(finding);
    assert_eq!(failing(&server).await, ["driver"]);
    let text = String::from_utf8(server.get("/ready").await.body.to_vec()).unwrap();
    assert!(text.contains("kvm.probe") && !text.contains("/secret/path"), "{text}");
    server.worker.seen.findings.lock().unwrap().clear();
    assert!(failing(&server).await.is_empty());
}

#[tokio::test]
async fn one_worker_that_can_is_enough_and_none_is_not() {
    let server = Server::start().await;
    let mut broken = server.worker_row();
    broken.id = WorkerId::new();
    broken.internal_address = "unix:/nowhere/worker.sock".into();
    server.put_worker(broken.clone()).await;
    let mut driverless = server.worker_row();
    driverless.id = WorkerId::new();
    driverless.driver = None;
    server.put_worker(driverless.clone()).await;
    // Whichever of them answers first.
    for _ in 0..20 {
        assert!(failing(&server).await.is_empty());
    }
    driverless.state = WorkerState::Draining;
    server.put_worker(driverless).await;
    let mut stopped = server.worker_row();
    stopped.state = WorkerState::Stopped;
    server.put_worker(stopped).await;
    assert_eq!(failing(&server).await, ["worker"]);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_named() {
    let server = Server::start().await;
    server.queue.store().close().await;
    assert_eq!(failing(&server).await, ["store", "worker"]);
    let problem = server.get("/api/v1/vms").await.problem();
    assert_eq!(problem.code.as_str(), "unavailable");
}
