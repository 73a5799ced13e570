//! The whole at a glance.

use crate::{Error, Gateway, gateway::now, ready};
use aetherium_model::{
    Timestamp,
    finding::{Finding, Verdict},
    status::{Status, WaitingTasks},
    worker::{Worker, WorkerState},
};
use axum::{Json, extract::State};
use std::time::Duration;

/// Longer than any worker is busy with claiming: a task that waits for longer waits for something.
const LONG_WAIT: Duration = Duration::from_secs(60);
/// How many workers a finding names.
const NAMED: usize = 5;

/// Get the status
///
/// The checks of `/ready`, each made now, the workers, and how much of what there is.
#[utoipa::path(
    get, path = "/api/v1/status", tag = "service",
    responses((status = 200, body = Status))
)]
pub(crate) async fn get(State(gateway): State<Gateway>) -> Result<Json<Status>, Error> {
    let now = now();
    let (checks, workers, vms, waiting) = tokio::join!(
        ready::checks(&gateway),
        gateway.store().every_worker(),
        gateway.store().vms_by_state(),
        gateway.store().waiting(),
    );
    let (mut checks, workers) = (checks, workers?);
    let waiting: Vec<_> = waiting?
        .into_iter()
        .map(|it| {
            let oldest_ms = u64::try_from(now.since(it.oldest).as_millis()).unwrap_or(u64::MAX);
            WaitingTasks { kind: it.kind, tasks: it.tasks, oldest_ms }
        })
        .collect();
    checks.extend(gone(&workers, now));
    checks.extend(without_a_driver(&workers));
    checks.extend(waiting.iter().filter_map(waits_long));
    Ok(Json(Status {
        taken_at: now,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        healthy: checks.iter().all(|check| check.verdict != Verdict::Fail),
        checks,
        workers,
        vms: vms?.into_iter().collect(),
        waiting,
    }))
}

fn gone(workers: &[Worker], now: Timestamp) -> Option<Finding> {
    let gone: Vec<_> = workers.iter().filter(|it| it.state == WorkerState::Gone).collect();
    let latest = gone.iter().map(|worker| worker.heartbeat_at).max()?;
    let found = format!(
        "{} stopped speaking without having been told to, the last one {} s ago",
        names(&gone),
        now.since(latest).as_secs()
    );
    let why = "what was given to such a worker waits for it, VMs that it left running are watched by nobody";
    Some(Finding::warn("workers.gone", found, why, "start it again on the same data directory"))
}

fn without_a_driver(workers: &[Worker]) -> Option<Finding> {
    let idle = |it: &&Worker| it.state == WorkerState::Active && it.driver.is_none();
    let idle: Vec<_> = workers.iter().filter(idle).collect();
    if idle.is_empty() {
        return None;
    }
    let found = format!("{} found no driver that works", names(&idle));
    let why = "a worker without a driver starts no VM";
    Some(Finding::warn("workers.driver", found, why, "run `aetherium doctor` there"))
}

fn waits_long(waiting: &WaitingTasks) -> Option<Finding> {
    let oldest = Duration::from_millis(waiting.oldest_ms);
    if oldest < LONG_WAIT {
        return None;
    }
    let found = format!(
        "{} of {} wait, the oldest for {} s",
        waiting.tasks,
        waiting.kind,
        oldest.as_secs()
    );
    let why =
        "a task waits while its worker is gone, full, or busy with an earlier one of its kind";
    let remedy = "see `aetherium worker list`, and `aetherium task list --state queued`";
    Some(Finding::warn("tasks.waiting", found, why, remedy))
}

fn names(workers: &[&Worker]) -> String {
    let mut names: Vec<_> = workers.iter().take(NAMED).map(|it| it.hostname.as_str()).collect();
    let rest = match workers.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.sort_unstable();
    format!("{}{rest}", names.join(", "))
}
