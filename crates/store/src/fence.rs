//! Fences: what a worker writes counts only during its tenure.
//!
//! A worker's every start begins a tenure, with an epoch one higher than the last; so does whoever
//! declares it gone. A store that is [`Store::fenced`] holds the epoch's row, in the same transaction,
//! while it claims, writes a start mark, or changes a VM or workspace. So either that comes first, and
//! whoever ends the tenure sees it, or the tenure has ended, and it is refused as a whole.

use crate::{Store, StoreError, connect::Engine, row, transact::Tx};
use aetherium_model::{WorkerId, worker::Epoch};

/// A worker's tenure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// Whose.
    pub worker_id: WorkerId,
    /// Which.
    pub epoch: Epoch,
}

impl Fence {
    pub(crate) fn over(self) -> StoreError {
        StoreError::Fenced { worker: self.worker_id, held: self.epoch.0 }
    }
}

impl Store {
    /// The same store for what a worker does in this tenure: it is refused as
    /// [`StoreError::Fenced`] once that is over.
    #[must_use]
    pub fn fenced(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }
}

/// Keeps the tenure from ending until the transaction does; an error if it has.
pub(crate) async fn hold(tx: &mut Tx, store: &Store) -> Result<(), StoreError> {
    let Some(fence) = store.fence else { return Ok(()) };
    let hold = match store.engine {
        // It has one writer, which this transaction is.
        Engine::Sqlite => "SELECT epoch FROM worker_epochs WHERE worker_id = $1",
        Engine::Postgres => "SELECT epoch FROM worker_epochs WHERE worker_id = $1 FOR SHARE",
    };
    let found = sqlx::query(hold)
        .bind(fence.worker_id.to_string())
        .fetch_optional(&mut **tx)
        .await?
        .map(|found| row::int(&found, "epoch"))
        .transpose()?;
    if found == Some(fence.epoch.0) { Ok(()) } else { Err(fence.over()) }
}

/// An error if the tenure is over.
pub(crate) async fn check(store: &Store) -> Result<(), StoreError> {
    let Some(fence) = store.fence else { return Ok(()) };
    let question = sqlx::query("SELECT epoch FROM worker_epochs WHERE worker_id = $1");
    let found = store.first(question.bind(fence.worker_id.to_string())).await?;
    let found = found.map(|found| row::int(&found, "epoch")).transpose()?;
    if found == Some(fence.epoch.0) { Ok(()) } else { Err(fence.over()) }
}

/// Begins a worker's next epoch, after all that holds the present one.
pub(crate) async fn next_epoch(tx: &mut Tx, worker_id: WorkerId) -> Result<Epoch, StoreError> {
    let next = sqlx::query(
        "INSERT INTO worker_epochs (worker_id, epoch) VALUES ($1, 1) ON CONFLICT (worker_id) \
         DO UPDATE SET epoch = worker_epochs.epoch + 1 RETURNING epoch",
    )
    .bind(worker_id.to_string())
    .fetch_one(&mut **tx)
    .await?;
    Ok(Epoch(row::int(&next, "epoch")?))
}

/// A statement with the database's clock between its parts, in milliseconds: the one that leases go by,
/// whatever clocks machines have.
macro_rules! with_clock {
    ($store:expr, $first:literal $(, $next:literal)+) => {
        match $store.engine {
            $crate::connect::Engine::Sqlite => {
                concat!($first $(, "CAST(unixepoch('subsec') * 1000 AS BIGINT)", $next)+)
            }
            $crate::connect::Engine::Postgres => concat!(
                $first
                $(, "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)", $next)+
            ),
        }
    };
}
pub(crate) use with_clock;
