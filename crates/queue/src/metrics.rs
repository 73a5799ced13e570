//! What operators see of a queue: how much work was taken on.

use crate::Queue;
use aetherium_model::task::{Task, TaskKind};
use aetherium_telemetry::Observed;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// The metrics of one queue; clones count together.
#[derive(Debug, Clone)]
pub(crate) struct QueueMetrics {
    accepted: Family<Kind, Counter>,
}

impl QueueMetrics {
    pub(crate) fn new() -> Self {
        let accepted = Family::default();
        for kind in TaskKind::NAMES {
            let _ = accepted.get_or_create(&Kind { kind });
        }
        Self { accepted }
    }

    /// Counts a task that was written, and not one that a repeated request found there.
    pub(crate) fn accepted(&self, task: &Task, is_new: bool) {
        if is_new {
            self.accepted.get_or_create(&Kind { kind: task.kind.as_str() }).inc();
        }
    }
}

impl Observed for Queue {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "aetherium_tasks_accepted",
            "Tasks that were taken on, by type",
            self.metrics.accepted.clone(),
        );
    }
}
