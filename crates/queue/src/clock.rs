//! The database's clock, as a worker has heard it. Leases of tasks and the times they are put off to go by
//! this one: with each worker's own, one whose clock is ahead would find what others hold to have run out.
//!
//! It is asked for now and then, and goes on by the monotonic clock in between.

use aetherium_model::Timestamp;
use aetherium_store::{Store, StoreError};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::Instant;

/// Clones share what was heard last.
#[derive(Debug, Clone)]
pub(crate) struct Clock(Arc<Mutex<Heard>>);

#[derive(Debug, Clone, Copy)]
struct Heard {
    time: Timestamp,
    at: Instant,
}

impl Heard {
    /// Behind by as long as the answer took, so that what is taken to have run out has.
    async fn from(store: &Store) -> Result<Self, StoreError> {
        let time = store.clock().await?;
        Ok(Self { time, at: Instant::now() })
    }
}

impl Clock {
    /// Asks the database.
    pub(crate) async fn of(store: &Store) -> Result<Self, StoreError> {
        Ok(Self(Arc::new(Mutex::new(Heard::from(store).await?))))
    }

    /// Asks it again. If it does not answer, the clock goes on as it did.
    pub(crate) async fn set(&self, store: &Store) -> Result<(), StoreError> {
        let heard = Heard::from(store).await?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = heard;
        Ok(())
    }

    /// What the database would say now.
    pub(crate) fn now(&self) -> Timestamp {
        let Heard { time, at } = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        time.after(at.elapsed())
    }
}
