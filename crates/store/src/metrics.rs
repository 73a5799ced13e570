//! What operators see of the database: its connections, what it takes, and how it fails.

use crate::{Store, StoreError};
use aetherium_telemetry::{Observed, seconds};
use async_trait::async_trait;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use sqlx::AnyPool;
use std::time::Instant;

/// What the database is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Asked {
    what: &'static str,
}

impl Asked {
    pub(crate) const CHANGE: Self = Self { what: "change" };
    pub(crate) const QUESTION: Self = Self { what: "question" };
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Connections {
    pool: &'static str,
    state: &'static str,
}

/// The metrics of one process's store; clones count together.
#[derive(Debug, Clone)]
pub(crate) struct StoreMetrics {
    took: Family<Asked, Histogram, fn() -> Histogram>,
    errors: Family<Failure, Counter>,
    pub(crate) retries: Counter,
    connections: Family<Connections, Gauge>,
    most: Gauge,
}

impl StoreMetrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            took: Family::new_with_constructor(seconds),
            errors: Family::default(),
            retries: Counter::default(),
            connections: Family::default(),
            most: Gauge::default(),
        };
        for asked in [Asked::CHANGE, Asked::QUESTION] {
            let _ = metrics.took.get_or_create(&asked);
        }
        let _ = metrics.errors.get_or_create(&Failure { code: "unavailable" });
        metrics
    }

    /// Counts what the database was asked from `began` on, the wait for a connection and all tries
    /// included. After the fact, since a future around the work's would be twice its size.
    pub(crate) fn done<T>(&self, asked: &Asked, began: Instant, done: &Result<T, StoreError>) {
        self.took.get_or_create(asked).observe(began.elapsed().as_secs_f64());
        if let Err(error) = done
            && is_the_databases(error)
        {
            self.errors.get_or_create(&Failure { code: error.code().as_str() }).inc();
        }
    }

    fn note(&self, pool: &'static str, connections: &AnyPool) {
        let idle = connections.num_idle();
        let open = usize::try_from(connections.size()).unwrap_or(usize::MAX);
        for (state, count) in [("idle", idle), ("used", open.saturating_sub(idle))] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.connections.get_or_create(&Connections { pool, state }).set(count);
        }
    }
}

/// Whether it is the database that failed, and not the caller who asked for what cannot be.
fn is_the_databases(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Database(_)
            | StoreError::Silent { .. }
            | StoreError::Corrupt { .. }
            | StoreError::File { .. }
    )
}

#[async_trait]
impl Observed for Store {
    fn register(&self, registry: &mut Registry) {
        let metrics = self.metrics.clone();
        registry.register(
            "aetherium_database_seconds",
            "What the database took, by what it was asked; the wait for a connection included",
            metrics.took,
        );
        registry.register(
            "aetherium_database_errors",
            "What the database did not do, by the error's code",
            metrics.errors,
        );
        registry.register(
            "aetherium_database_retries",
            "Changes that PostgreSQL ended for another's sake and that were tried again",
            metrics.retries,
        );
        registry.register(
            "aetherium_database_connections",
            "Connections, by pool and whether they are in use",
            metrics.connections,
        );
        registry.register(
            "aetherium_database_connections_max",
            "Connections that one pool may have",
            metrics.most,
        );
    }

    async fn refresh(&self) {
        let most = self.read.options().get_max_connections();
        self.metrics.most.set(i64::from(most));
        self.metrics.note("read", &self.read);
        // PostgreSQL has one pool for both.
        if self.engine == crate::connect::Engine::Sqlite {
            self.metrics.note("write", &self.write);
        }
    }
}
