//! A worker's calls: which tasks it was told of, and whether it has to look for more.
//!
//! A task's id is a hint. It says where to look first, and may be wrong, late, or come twice.

use super::{Heard, Subscription};
use crate::redis::Message;
use aetherium_model::{TaskId, WorkerId};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How many hints wait for a worker: more of them are worth no more than a look at the table.
const MOST_HINTS: usize = 1024;

/// What a worker was told since it last asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// The tasks it was told of.
    pub hints: Vec<TaskId>,
    /// Whether there may be more to do than the hints say.
    pub look: bool,
    /// What Redis is to be told once the calls were followed.
    receipts: Vec<String>,
}

/// Where a worker's calls wait for it.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    calls: Mutex<Calls>,
}

impl Inbox {
    /// Adds a call. A receipt that has no room is not given: Redis then hands the call out again.
    pub(super) fn put(&self, task_id: Option<TaskId>, receipt: Option<String>) {
        let mut calls = self.calls();
        match task_id {
            Some(task_id) if calls.hints.len() < MOST_HINTS => calls.hints.push(task_id),
            _ => calls.look = true,
        }
        if calls.receipts.len() < MOST_HINTS {
            calls.receipts.extend(receipt);
        }
    }

    fn take(&self) -> Calls {
        std::mem::take(&mut *self.calls())
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker's ear.
#[derive(Debug)]
pub struct Work {
    worker_id: WorkerId,
    told: Subscription,
    inbox: Arc<Inbox>,
}

impl Work {
    pub(super) const fn new(worker_id: WorkerId, told: Subscription, inbox: Arc<Inbox>) -> Self {
        Self { worker_id, told, inbox }
    }

    /// Waits until there are calls, at most so long.
    pub async fn called(&mut self, at_most: Duration) {
        match self.told.heard(at_most).await {
            Heard::LookAgain => self.inbox.put(None, None),
            Heard::Word | Heard::Nothing => {}
        }
    }

    /// The calls since this was last asked. Give them back to [`Self::followed`].
    pub fn take(&self) -> Calls {
        self.inbox.take()
    }

    /// Says that calls were followed; those that were not come again, here or after a restart.
    pub fn followed(&self, calls: Calls) {
        let (worker_id, receipts) = (self.worker_id, calls.receipts);
        if !receipts.is_empty() {
            self.told.bus.send(Message::Followed { worker_id, receipts });
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.told.bus.local.close_inbox(self.worker_id, &self.inbox);
    }
}
