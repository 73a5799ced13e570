//! The workers' rows as of a moment ago, so that placing does not read them all each time.
//!
//! What this gateway promises of a worker is counted in at once; what others promise shows with the next
//! reading. A row that is a moment old only makes a choice less good: whether a worker may have it is
//! decided by the store, and whoever was refused there has the rows read again. So nobody waits while rows
//! are read anew that are still good enough.

use crate::{Error, Gateway};
use aetherium_model::{WorkerId, room::Room, worker::Worker};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Rows older than this are read anew.
const FRESH: Duration = Duration::from_secs(1);
/// Until then the old ones are good enough.
const GOOD_ENOUGH: Duration = Duration::from_secs(2);

/// The rows, kept for a moment.
#[derive(Default)]
pub(crate) struct Registry {
    kept: Mutex<Option<Read>>,
    /// Held by the one who reads.
    reading: Arc<tokio::sync::Mutex<()>>,
}

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
    /// Asks the rows something. Who needs newer ones than there are waits until they are read.
    pub(crate) async fn ask<T>(
        &self,
        gateway: &Gateway,
        age: Age,
        question: impl FnOnce(&[Worker]) -> T,
    ) -> Result<T, Error> {
        let asked = Instant::now();
        let is_good = |read: &Read| match age {
            Age::Moment => read.at.elapsed() < GOOD_ENOUGH,
            Age::None => read.at >= asked,
        };
        if !self.kept().as_ref().is_some_and(is_good) {
            let _reading = self.reading.lock().await;
            // Somebody else may have read them meanwhile.
            if !self.kept().as_ref().is_some_and(is_good) {
                read(gateway).await?;
            }
        } else if self.kept().as_ref().is_some_and(|read| read.at.elapsed() >= FRESH) {
            self.renew(gateway);
        }
        let kept = self.kept();
        Ok(question(kept.as_ref().map_or(&[], |read| &read.workers)))
    }

    /// Has the rows read anew, by a task of the gateway's, unless somebody is at it.
    fn renew(&self, gateway: &Gateway) {
        let Ok(reading) = Arc::clone(&self.reading).try_lock_owned() else { return };
        let gateway = gateway.clone();
        let tasks = gateway.tasks().clone();
        tasks.spawn(async move {
            if let Err(error) = read(&gateway).await {
                // Whoever needs the rows next reads them himself, and is told.
                tracing::debug!(%error, "the workers' rows were not read anew");
            }
            drop(reading);
        });
    }

    /// Counts in what was just promised of a worker.
    pub(crate) fn promised(&self, id: WorkerId, room: Room) {
        let mut kept = self.kept();
        let workers = kept.iter_mut().flat_map(|read| &mut read.workers);
        if let Some(worker) = workers.into_iter().find(|worker| worker.id == id) {
            worker.reserved = worker.reserved.and(room);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<Read>> {
        // A panic elsewhere cannot leave it half changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(gateway: &Gateway) -> Result<(), Error> {
    let at = Instant::now();
    let workers = gateway.store().every_worker().await?;
    *gateway.registry().kept() = Some(Read { at, workers });
    Ok(())
}
