//! One delivery: calls the handler, outlives its panic, and writes what became of the task.

use crate::{Bus, Handler, Outcome, TaskContext, clock::Clock, queue::announce_task};
use aetherium_model::{
    Code, Fault, Timestamp,
    retry::{self, RetryPolicy},
    task::{Recovery, Task, TaskState},
};
use aetherium_store::{RunRef, Store, StoreError, TaskEnd};
use futures::FutureExt as _;
use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Duration};

/// How long [`Handler::abandoned`] may take.
const ABANDONED_DEADLINE: Duration = Duration::from_secs(10);
/// How often an end is tried to be written, with waits that double from the first: 12 s in all,
/// well within a lease. After that recovery ends the task.
const WRITE_TRIES: u32 = 8;
const FIRST_WAIT: Duration = Duration::from_millis(100);

pub(crate) struct Settler {
    pub(crate) store: Store,
    pub(crate) bus: Bus,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) clock: Clock,
}

/// What was written, as far as the caller has to act on it.
enum Written {
    End,
    PutOff(Timestamp),
    Abandoned(Recovery),
}

impl Settler {
    /// Delivers a claim to its handler. Returns when it is to be handed out again, if it is.
    pub(crate) async fn deliver(self, claim: Task, context: TaskContext) -> Option<Timestamp> {
        let handled = AssertUnwindSafe(self.handler.handle(claim.clone(), context));
        let outcome = handled.catch_unwind().await.map_err(|panic| {
            let fault = Fault::internal(format!(
                "the handler of {} panicked: {}",
                claim.kind.as_str(),
                panic_message(&*panic)
            ));
            tracing::error!(task = %claim.id, %fault, "a handler panicked");
            fault
        });
        let written = self.write_patiently(&claim, &outcome).await;
        // Its serial key may be free now, and there is one more hand.
        announce_task(&self.bus, &claim);
        match written? {
            Written::End => None,
            Written::PutOff(until) => Some(until),
            Written::Abandoned(verdict) => {
                abandon(&*self.handler, &claim, &verdict).await;
                None
            }
        }
    }

    async fn write_patiently(
        &self,
        claim: &Task,
        outcome: &Result<Outcome, Fault>,
    ) -> Option<Written> {
        let mut wait = FIRST_WAIT;
        for _ in 1..WRITE_TRIES {
            match self.write(claim, outcome).await {
                Ok(written) => return Some(written),
                Err(error) => {
                    tracing::warn!(task = %claim.id, %error, "cannot write a task's end; trying again");
                }
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        self.write(claim, outcome)
            .await
            .inspect_err(|error| {
                tracing::error!(task = %claim.id, %error, "cannot write a task's end; its lease will run out");
            })
            .ok()
    }

    async fn write(
        &self,
        claim: &Task,
        outcome: &Result<Outcome, Fault>,
    ) -> Result<Written, StoreError> {
        let finish = |state, fault| self.store.finish_task(claim, state, fault, self.clock.now());
        let end = match outcome {
            Err(fault) => {
                let end = self.store.crash_task(claim, fault, self.clock.now()).await?;
                return Ok(match end {
                    TaskEnd::Written => Written::Abandoned(Recovery::GiveUp(fault.clone())),
                    TaskEnd::NotOurs => Written::End,
                });
            }
            Ok(Outcome::Retry { after, fault }) => {
                return self.put_off(claim, *after, fault).await;
            }
            Ok(Outcome::Settled) => return self.check_settled(claim).await,
            Ok(Outcome::Done) if RunRef::of(&claim.kind).is_some() => {
                return self.check_settled(claim).await;
            }
            Ok(Outcome::Done) => finish(TaskState::Succeeded, None).await?,
            Ok(Outcome::Failed(fault)) if self.may_pass(claim, fault).await? => {
                let wait = RetryPolicy::of(&claim.kind).wait(claim.attempts, rand::random());
                tracing::info!(task = %claim.id, %fault, ?wait, "a task failed and is tried again");
                return self.put_off(claim, wait, fault).await;
            }
            // After the start mark it is not known that nothing ran: then it is interrupted.
            Ok(Outcome::Failed(fault)) => {
                self.store.crash_task(claim, fault, self.clock.now()).await?
            }
            Ok(Outcome::Cancelled) => finish(TaskState::Cancelled, None).await?,
        };
        if end == TaskEnd::NotOurs {
            tracing::warn!(task = %claim.id, ?outcome, "the claim was lost before its end");
        }
        Ok(Written::End)
    }

    /// Whether a failure may pass, and nothing was run that must not run again.
    async fn may_pass(&self, claim: &Task, fault: &Fault) -> Result<bool, StoreError> {
        if !retry::is_passing(&claim.kind, fault.code) {
            return Ok(false);
        }
        let task = self.store.task(claim.id).await?;
        Ok(task.kind.is_idempotent() || task.started_at.is_none())
    }

    async fn put_off(
        &self,
        claim: &Task,
        wait: Duration,
        fault: &Fault,
    ) -> Result<Written, StoreError> {
        let now = self.clock.now();
        let until = now.after(wait);
        Ok(match self.store.requeue(claim, until, Some(fault), now).await? {
            Some(Recovery::Requeue | Recovery::Resume) => Written::PutOff(until),
            Some(verdict) => Written::Abandoned(verdict),
            None => Written::End,
        })
    }

    /// A handler that says its run ended but wrote no end would hold its serial key for ever.
    async fn check_settled(&self, claim: &Task) -> Result<Written, StoreError> {
        let fault = Fault::internal(format!(
            "the handler of {} {} said it had ended, but no end is written",
            claim.kind.as_str(),
            claim.id
        ));
        Ok(match self.store.crash_task(claim, &fault, self.clock.now()).await? {
            TaskEnd::NotOurs => Written::End,
            TaskEnd::Written => Written::Abandoned(Recovery::GiveUp(fault)),
        })
    }
}

/// Tells the handler of a task that ended without its word.
pub(crate) async fn abandon(handler: &dyn Handler, task: &Task, verdict: &Recovery) {
    let cancelled;
    let fault = match verdict {
        Recovery::Requeue | Recovery::Resume => return,
        Recovery::Interrupt(fault) | Recovery::GiveUp(fault) => fault,
        Recovery::Cancel => {
            cancelled = Fault::new(Code::Cancelled, "it was cancelled before it started");
            &cancelled
        }
    };
    let told = AssertUnwindSafe(handler.abandoned(task, fault)).catch_unwind();
    match tokio::time::timeout(ABANDONED_DEADLINE, told).await {
        Ok(Ok(())) => {}
        Ok(Err(panic)) => {
            let panic = panic_message(&*panic);
            tracing::error!(task = %task.id, panic, "settling an abandoned task panicked");
        }
        Err(_) => tracing::error!(task = %task.id, "settling an abandoned task took too long"),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
