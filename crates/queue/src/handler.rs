//! What a worker supplies: how one task is done, and what it may answer.

use crate::rest::{Hand, Resting};
use aetherium_model::{Fault, task::Task};
use async_trait::async_trait;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Does the tasks of a worker.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Does one task. `task` is the claim: the start mark and the run's end take it as it is.
    ///
    /// It may be dropped at any await once the time to shut down is over; a panic fails the task.
    async fn handle(&self, task: Task, context: TaskContext) -> Outcome;

    /// Learns that a task of this worker ended without a word of its handler: it panicked, was
    /// lost with an earlier process, or was tried too often. `task` is as it was before. For
    /// settling what the task was to change, such as a VM that will never be started; must be
    /// done within seconds.
    async fn abandoned(&self, task: &Task, fault: &Fault) {
        let _ = (task, fault);
    }
}

/// How the handling of a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done. A prompt or execution must have its end written besides.
    Done,
    /// It cannot be done; where the fault may pass, it is tried again after a while, see
    /// [`aetherium_model::retry`].
    Failed(Fault),
    /// Not now: hand it out again after this time. A task that may have run something ends as
    /// interrupted instead, one that was tried too often as failed.
    Retry {
        /// How long to wait.
        after: Duration,
        /// Why.
        fault: Fault,
    },
    /// It was cancelled as asked, and nothing is left of it.
    Cancelled,
    /// The end of its run was written, and with it the task's.
    Settled,
}

/// What a handler can know of its task's surroundings.
#[derive(Debug, Clone)]
pub struct TaskContext {
    pub(crate) cancelled: CancellationToken,
    pub(crate) shutting_down: CancellationToken,
    pub(crate) hand: Arc<Hand>,
}

impl TaskContext {
    /// Fires when somebody wants the task cancelled, or its claim was lost: stop, and say so.
    pub const fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
    }

    /// Fires when the worker is to stop: what has not started may return [`Outcome::Retry`], what
    /// runs has until the consumer's grace is over.
    pub const fn shutting_down(&self) -> &CancellationToken {
        &self.shutting_down
    }

    /// Lends its hand back while the handler only waits, as for something that another task may bring
    /// about: until the guard is dropped it does not count among those of [`Consumer::max_in_flight`].
    /// Nothing where it rests already, or too many others do; it keeps its hand then and may ask again.
    ///
    /// [`Consumer::max_in_flight`]: crate::Consumer::max_in_flight
    pub fn rest(&self) -> Option<Resting> {
        self.hand.lend()
    }
}
