//! The workers' rows as of a moment ago, so that placing does not read them all each time.
//!
//! What this gateway promises of a worker is counted in at once; what others promise shows with the next
//! reading. A row that is a moment old only makes a choice less good: whether a worker may have it is
//! decided by the store, and whoever was refused there has the rows read again.

use crate::Error;
use aetherium_model::{WorkerId, room::Room, worker::Worker};
use aetherium_store::Store;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How old the rows may be.
const FRESH: Duration = Duration::from_secs(1);

/// The rows, kept for a moment.
#[derive(Default)]
pub(crate) struct Registry(Mutex<Option<Read>>);

struct Read {
    at: Instant,
    workers: Vec<Worker>,
}

/// How old the rows may be that a question is answered from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// A moment.
    Moment,
    /// No older than the question.
    None,
}

impl Registry {
    /// Asks the rows something. Whoever comes while they are being read waits for that.
    pub(crate) async fn ask<T>(
        &self,
        store: &Store,
        age: Age,
        question: impl FnOnce(&[Worker]) -> T,
    ) -> Result<T, Error> {
        let asked = Instant::now();
        let mut kept = self.0.lock().await;
        let is_good = |read: &Read| match age {
            Age::Moment => read.at.elapsed() < FRESH,
            Age::None => read.at >= asked,
        };
        if !kept.as_ref().is_some_and(is_good) {
            let at = Instant::now();
            *kept = Some(Read { at, workers: store.every_worker().await? });
        }
        Ok(question(kept.as_ref().map_or(&[], |read| &read.workers)))
    }

    /// Counts in what was just promised of a worker.
    pub(crate) async fn promised(&self, id: WorkerId, room: Room) {
        let mut kept = self.0.lock().await;
        let workers = kept.iter_mut().flat_map(|read| &mut read.workers);
        if let Some(worker) = workers.into_iter().find(|worker| worker.id == id) {
            worker.reserved = worker.reserved.and(room);
        }
    }
}
