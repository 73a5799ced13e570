//! `/health` and `/ready`: the only routes without a key, for whatever watches the process.
//!
//! Every check is made when asked, with a deadline; nothing is remembered from before. Since anyone
//! may ask, a worker's findings are told by name and verdict, not with its paths.

use crate::{
    Gateway,
    api::{Health, Readiness},
};
use aetherium_model::{
    TaskId,
    finding::{Finding, Verdict},
    page::{MAX_PAGE, PageRequest},
    worker::{Worker, WorkerState},
};
use aetherium_queue::{Changed, Topic};
use axum::{Json, extract::State};
use futures::{StreamExt, stream::FuturesUnordered};
use http::StatusCode;
use std::time::Duration;

/// What one check may take. Probes usually give up after a few seconds themselves.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The process lives
///
/// Always 200, whatever else does not work.
#[utoipa::path(
    get, path = "/health", tag = "service", security(()),
    responses((status = 200, body = Health))
)]
pub(crate) async fn health() -> Json<Health> {
    Json(Health { status: "ok".to_owned() })
}

/// Work can be done
///
/// Asks the store, the queue, and the workers' own checks, each now.
#[utoipa::path(
    get, path = "/ready", tag = "service", security(()),
    responses((status = 200, body = Readiness), (status = 503, body = Readiness))
)]
pub(crate) async fn ready(State(gateway): State<Gateway>) -> (StatusCode, Json<Readiness>) {
    let checks = checks(&gateway).await;
    let ready = checks.iter().all(|check| check.verdict != Verdict::Fail);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, checks }))
}

/// What each check finds now.
pub(crate) async fn checks(gateway: &Gateway) -> Vec<Finding> {
    let mut checks = vec![store(gateway).await, queue(gateway).await];
    checks.extend(workers(gateway).await);
    checks
}

pub(crate) async fn store(gateway: &Gateway) -> Finding {
    const WHY: &str = "every request reads or writes the database";
    let failed = |found: String| {
        Finding::fail("store", found, WHY, "see that the database is reachable and has room")
    };
    match tokio::time::timeout(CHECK_TIMEOUT, gateway.store().ping()).await {
        Ok(Ok(())) => Finding::ok("store", "the database answers", WHY),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the database fails its check");
            failed("the database answers with an error".to_owned())
        }
        Err(_) => failed(format!("the database did not answer within {CHECK_TIMEOUT:?}")),
    }
}

/// Whether a notification goes round: announced here, it must be noticed here.
pub(crate) async fn queue(gateway: &Gateway) -> Finding {
    const WHY: &str = "without notifications work begins late";
    let topic = Topic::Task(TaskId::new());
    let mut subscription = gateway.bus().subscribe(topic);
    gateway.bus().announce(topic);
    match subscription.changed(CHECK_TIMEOUT).await {
        Changed::Yes => Finding::ok("queue", "notifications go round", WHY),
        Changed::TimedOut => {
            let found = format!("a notification was not delivered within {CHECK_TIMEOUT:?}");
            Finding::fail("queue", found, WHY, "restart the gateway, and report it with its log")
        }
    }
}

async fn workers(gateway: &Gateway) -> Vec<Finding> {
    const WHY: &str = "only a worker can start VMs and run commands in them";
    let newest = PageRequest { limit: MAX_PAGE, after: None };
    let rows = tokio::time::timeout(CHECK_TIMEOUT, gateway.store().workers(&newest)).await;
    let Ok(Ok(rows)) = rows else {
        let remedy = "see the check of the store";
        return vec![Finding::fail("worker", "the list of workers cannot be read", WHY, remedy)];
    };
    let active = |worker: &Worker| worker.state == WorkerState::Active;
    let mut asked: FuturesUnordered<_> =
        rows.items.into_iter().filter(active).map(|worker| driver(gateway, worker)).collect();
    if asked.is_empty() {
        let remedy = "start a worker: `aetherium worker`, or `aetherium up` for all in one";
        return vec![Finding::fail("worker", "no worker is active", WHY, remedy)];
    }
    // One that can work is enough; the failures matter only if there is none.
    let mut failures = Vec::new();
    while let Some(findings) = asked.next().await {
        if findings.iter().all(|finding| finding.verdict != Verdict::Fail) {
            return findings;
        }
        failures.extend(findings);
    }
    failures
}

/// Whether this worker answers, and its driver really passes.
async fn driver(gateway: &Gateway, worker: Worker) -> Vec<Finding> {
    const WHY: &str = "a worker that does not answer, or whose driver fails, starts no VM";
    let asked = tokio::time::timeout(CHECK_TIMEOUT, gateway.workers().health(&worker)).await;
    let host = &worker.hostname;
    let unanswered = |found: String| {
        vec![Finding::fail("worker", found, WHY, "see that the worker runs, and read its log")]
    };
    match asked {
        Err(_) => unanswered(format!("{host} did not answer within {CHECK_TIMEOUT:?}")),
        Ok(Err(fault)) => {
            tracing::warn!(%fault, "a worker fails its check");
            unanswered(format!("{host} cannot be asked: {}", fault.code))
        }
        Ok(Ok(findings)) => {
            let alive = Finding::ok("worker", format!("{host} is active and answers"), WHY);
            let broken = findings.iter().filter(|finding| finding.verdict == Verdict::Fail);
            let broken: Vec<_> = broken.map(|finding| finding.check.as_str()).collect();
            let driver = match worker.driver {
                Some(driver) if broken.is_empty() => {
                    Finding::ok("driver", format!("{driver} passes on {host}"), WHY)
                }
                _ => {
                    let names =
                        if broken.is_empty() { "no driver".into() } else { broken.join(", ") };
                    let remedy = "run `aetherium doctor` on that machine; it says what to do";
                    Finding::fail("driver", format!("{host} fails {names}"), WHY, remedy)
                }
            };
            vec![alive, driver]
        }
    }
}
