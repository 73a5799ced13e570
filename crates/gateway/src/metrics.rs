//! What operators see of a gateway: its requests and streams, and the fleet as the store has it.
//!
//! What is told of the fleet is the same on every gateway: look at one, or at the largest.

use crate::{Gateway, gateway::now, ready};
use aetherium_model::{finding::Finding, task::TaskKind, vm::VmState, worker::WorkerState};
use aetherium_store::StoreError;
use aetherium_telemetry::{Observed, seconds};
use async_trait::async_trait;
use axum::extract::MatchedPath;
use http::{Method, StatusCode};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::{sync::atomic::AtomicU64, time::Duration};

/// The value of a label for what has no name of its own.
const OTHER: &str = "other";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    /// The route's pattern, never the path: ids have no bound.
    route: String,
    method: &'static str,
    /// Such as `2xx`.
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

type Seconds = Gauge<f64, AtomicU64>;

/// The metrics of one gateway; clones count together.
#[derive(Debug, Clone)]
pub(crate) struct GatewayMetrics {
    requests: Family<Request, Histogram, fn() -> Histogram>,
    in_progress: Gauge,
    streams: Gauge,
    streams_max: Gauge,
    waiting: Family<Kind, Gauge>,
    oldest: Family<Kind, Seconds>,
    vms: Family<State, Gauge>,
    workers: Family<State, Gauge>,
    heartbeat: Seconds,
}

impl Default for GatewayMetrics {
    fn default() -> Self {
        Self {
            requests: Family::new_with_constructor(seconds),
            in_progress: Gauge::default(),
            streams: Gauge::default(),
            streams_max: Gauge::default(),
            waiting: Family::default(),
            oldest: Family::default(),
            vms: Family::default(),
            workers: Family::default(),
            heartbeat: Seconds::default(),
        }
    }
}

/// Counts as a request in progress until it is dropped.
pub(crate) struct InProgress(Gauge);

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl GatewayMetrics {
    pub(crate) fn begin(&self) -> InProgress {
        self.in_progress.inc();
        InProgress(self.in_progress.clone())
    }

    /// Counts a request whose answer's head is ready.
    pub(crate) fn answered(
        &self,
        route: Option<&MatchedPath>,
        method: &Method,
        status: StatusCode,
        took: Duration,
    ) {
        let route = route.map_or(OTHER, MatchedPath::as_str).to_owned();
        let request = Request { route, method: method_name(method), status: class(status) };
        self.requests.get_or_create(&request).observe(took.as_secs_f64());
    }

    async fn look_at_tasks(&self, gateway: &Gateway) -> Result<(), StoreError> {
        let waiting = gateway.store().waiting().await?;
        for kind in TaskKind::NAMES {
            let of = waiting.iter().find(|it| it.kind == kind);
            let (tasks, age) =
                of.map_or((0, Duration::ZERO), |it| (it.tasks, now().since(it.oldest)));
            self.waiting.get_or_create(&Kind { kind }).set(int(tasks));
            self.oldest.get_or_create(&Kind { kind }).set(age.as_secs_f64());
        }
        Ok(())
    }

    async fn look_at_vms(&self, gateway: &Gateway) -> Result<(), StoreError> {
        let found = gateway.store().vms_by_state().await?;
        for state in VmState::LIVE {
            let vms = found.iter().find(|(name, _)| name == state).map_or(0, |(_, vms)| *vms);
            self.vms.get_or_create(&State { state }).set(int(vms));
        }
        Ok(())
    }

    async fn look_at_workers(&self, gateway: &Gateway) -> Result<(), crate::Error> {
        let (workers, now) = (gateway.store().every_worker().await?, now());
        self.workers.clear();
        for state in WorkerState::LASTING {
            let _ = self.workers.get_or_create(&State { state: state.as_str() });
        }
        let mut oldest = Duration::ZERO;
        for worker in &workers {
            let state = worker.state.as_str();
            self.workers.get_or_create(&State { state }).inc();
            if worker.state != WorkerState::Stopped {
                oldest = oldest.max(now.since(worker.heartbeat_at));
            }
        }
        self.heartbeat.set(oldest.as_secs_f64());
        Ok(())
    }
}

#[async_trait]
impl Observed for Gateway {
    fn register(&self, registry: &mut Registry) {
        self.queue().register(registry);
        let it = self.metrics().clone();
        registry.register(
            "aetherium_http_request_duration_seconds",
            "From a request's head to its answer's head, by route, method and class of status",
            it.requests,
        );
        registry.register(
            "aetherium_http_requests_in_progress",
            "Requests whose answer has not begun",
            it.in_progress,
        );
        registry.register(
            "aetherium_streams_open",
            "Event streams, downloads and WebSockets that are open",
            it.streams,
        );
        registry.register(
            "aetherium_streams_max",
            "Event streams, downloads and WebSockets that may be open",
            it.streams_max,
        );
        registry.register("aetherium_tasks_waiting", "Tasks that wait, by type", it.waiting);
        registry.register(
            "aetherium_tasks_oldest_waiting_seconds",
            "How long the oldest task that waits has waited, by type",
            it.oldest,
        );
        registry.register(
            "aetherium_fleet_vms",
            "VMs of all workers that have not ended, by state",
            it.vms,
        );
        registry.register("aetherium_fleet_workers", "Workers, by state", it.workers);
        registry.register(
            "aetherium_fleet_oldest_heartbeat_seconds",
            "How long ago the worker that is silent for longest was heard of, of those not stopped",
            it.heartbeat,
        );
    }

    async fn refresh(&self) {
        let metrics = self.metrics();
        let (open, most) = self.streams();
        metrics.streams.set(i64::try_from(open).unwrap_or(i64::MAX));
        metrics.streams_max.set(i64::try_from(most).unwrap_or(i64::MAX));
        let (tasks, vms, workers) = tokio::join!(
            metrics.look_at_tasks(self),
            metrics.look_at_vms(self),
            metrics.look_at_workers(self),
        );
        if let Err(error) = tasks.and(vms).map_err(crate::Error::from).and(workers) {
            tracing::warn!(%error, "the fleet's metrics are as they were: the store cannot be read");
        }
    }

    /// What this gateway needs itself. That no worker is active is no reason to keep callers from it: it
    /// answers what it knows, and says what it cannot do.
    async fn findings(&self) -> Vec<Finding> {
        vec![ready::store(self).await, ready::queue(self).await]
    }
}

fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The methods the API knows; whoever invents others shall not fill the memory with them.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => OTHER,
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_invents_becomes_no_label() {
        let metrics = GatewayMetrics::default();
        for method in ["BREW", "WHEN"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            metrics.answered(None, &method, StatusCode::NOT_FOUND, Duration::ZERO);
        }
        let mut registry = Registry::default();
        registry.register("requests", "Requests", metrics.requests);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let labels = r#"{route="other",method="other",status="4xx"}"#;
        assert!(text.contains(&format!("requests_count{labels} 2")), "{text}");
    }
}
