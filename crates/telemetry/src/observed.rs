//! What a part of a role lets operators see.

use aetherium_model::finding::Finding;
use async_trait::async_trait;
use prometheus_client::{metrics::histogram::Histogram, registry::Registry};

/// A part of a role that operators watch.
#[async_trait]
pub trait Observed: Send + Sync {
    /// Enters its metrics. Called once.
    fn register(&self, registry: &mut Registry);

    /// Brings up to date what it does not count as it happens. Called before its metrics are read.
    async fn refresh(&self) {}

    /// What a check of it finds now: whether it can do its work.
    async fn findings(&self) -> Vec<Finding> {
        Vec::new()
    }
}

/// A histogram of seconds, from a millisecond to ten minutes: what a request takes, and what a boot.
pub fn seconds() -> Histogram {
    Histogram::new([
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
        300.0, 600.0,
    ])
}
