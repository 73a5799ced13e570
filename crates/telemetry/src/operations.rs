//! The listener for operators: `/metrics`, `/health` and `/ready`, without authentication.
//!
//! It tells no ids and no secrets, but it does tell how much is done; it belongs on an address that only
//! operators reach.

use crate::Observed;
use aetherium_model::finding::{Finding, Verdict};
use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde::Serialize;
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Mutex, time::timeout};
use tokio_util::sync::CancellationToken;

/// What bringing all metrics up to date may take. Prometheus gives up after ten seconds unless told
/// otherwise; what is late is told as it was.
const REFRESH: Duration = Duration::from_secs(5);
/// What the checks may take. Probes usually give up after a few seconds themselves.
const CHECKS: Duration = Duration::from_secs(3);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The parts of a role that operators watch, and their metrics.
#[derive(Default)]
pub struct Operations {
    parts: Vec<Arc<dyn Observed>>,
    registry: Registry,
    /// Held while metrics are read, so that many who ask cost no more than one.
    reading: Mutex<()>,
}

impl Operations {
    /// Adds a part.
    #[must_use]
    pub fn watch(mut self, part: impl Observed + 'static) -> Self {
        part.register(&mut self.registry);
        self.parts.push(Arc::new(part));
        self
    }

    /// Serves until `shutdown`.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let served =
            axum::serve(listener, self.router()).with_graceful_shutdown(shutdown.cancelled_owned());
        if let Err(error) = served.await {
            tracing::error!(%error, "the operations listener ended");
        }
    }

    fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/health", get(health))
            .route("/ready", get(ready))
            .with_state(Arc::new(self))
    }
}

async fn metrics(State(operations): State<Arc<Operations>>) -> Response {
    let _reading = operations.reading.lock().await;
    for part in &operations.parts {
        if timeout(REFRESH, part.refresh()).await.is_err() {
            tracing::warn!(?REFRESH, "some metrics were not brought up to date in time");
        }
    }
    let mut text = String::new();
    match encode(&mut text, &operations.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

/// The process lives, whatever else does not work.
async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Whether work can be done, and what was found.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    checks: Vec<Finding>,
}

async fn ready(State(operations): State<Arc<Operations>>) -> (StatusCode, Json<Readiness>) {
    let mut checks = Vec::new();
    for part in &operations.parts {
        checks.extend(timeout(CHECKS, part.findings()).await.unwrap_or_else(|_| vec![late()]));
    }
    let ready = checks.iter().all(|check| check.verdict != Verdict::Fail);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, checks }))
}

fn late() -> Finding {
    let found = format!("a check did not end within {CHECKS:?}");
    let why = "whoever does not answer a check does not answer callers either";
    Finding::fail("deadline", found, why, "see whether the machine is overloaded, and read the log")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "these are tests")]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use prometheus_client::metrics::gauge::Gauge;

    /// Counts how often it was asked; ready until then as often as it was told.
    #[derive(Default)]
    struct Asked(Gauge);

    #[async_trait]
    impl Observed for Asked {
        fn register(&self, registry: &mut Registry) {
            registry.register("asked", "How often it was asked", self.0.clone());
        }

        async fn refresh(&self) {
            self.0.inc();
        }

        async fn findings(&self) -> Vec<Finding> {
            let (why, found) = ("it shall be asked once", "it was asked");
            vec![match self.0.get() {
                0 => Finding::fail("asked", "nobody asked", why, "ask"),
                _ => Finding::ok("asked", found, why),
            }]
        }
    }

    #[tokio::test]
    async fn what_is_counted_elsewhere_is_read_when_somebody_asks_and_readiness_tells_why_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let operations = Operations::default().watch(Asked::default());
        let serving = tokio::spawn(operations.serve(listener, stop.clone()));

        let _ = rustls::crypto::ring::default_provider().install_default();
        let ready = reqwest::get(format!("{base}/ready")).await.unwrap();
        assert_eq!(ready.status(), 503);
        let told: serde_json::Value = ready.json().await.unwrap();
        assert_eq!(told["checks"][0]["found"], "nobody asked", "{told}");
        assert_eq!(reqwest::get(format!("{base}/health")).await.unwrap().status(), 200);
        for asked in 1..=2 {
            let text = reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
            assert!(text.contains(&format!("\nasked {asked}\n")), "{text}");
        }
        assert_eq!(reqwest::get(format!("{base}/ready")).await.unwrap().status(), 200);
        stop.cancel();
        serving.await.unwrap();
    }
}
