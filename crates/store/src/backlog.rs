//! Whether another task may wait, without counting those that do each time.
//!
//! A count takes as long as the queue. Far from the bound it is therefore made once a second, by one of
//! those who ask, and this process's own tasks are added to it; near the bound every insert counts for
//! itself and is exact. What other processes add within a second is borne by [`OTHERS`].

use crate::{Store, StoreError, row};
use sqlx::{Any, Executor};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// For how long a count is relied upon.
const FRESH: Duration = Duration::from_secs(1);
/// Places that are kept for what others add between two counts: more than a database takes.
const OTHERS: i64 = 10_000;

const COUNT: &str = "SELECT COUNT(*) AS waiting FROM \
     (SELECT 1 AS one FROM tasks WHERE state = 'queued' LIMIT $1) AS queued";

/// How many tasks wait, as far as this process knows.
#[derive(Debug, Default)]
pub(crate) struct Backlog(Mutex<Option<Counted>>);

#[derive(Debug, Clone, Copy)]
struct Counted {
    at: Instant,
    waiting: i64,
}

/// What has to be done before a task is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// Nothing: there is room, and it was taken.
    Taken,
    /// The insert must look for itself.
    Unsure,
    /// Nobody has counted for a while: the caller shall, say so by [`Backlog::counted`], and ask again.
    Stale,
}

impl Backlog {
    /// Takes a place for a task, of `most`.
    pub(crate) fn take(&self, most: i64) -> Room {
        let mut known = self.lock();
        match known.as_mut() {
            None => Room::Stale,
            Some(counted) if counted.at.elapsed() >= FRESH => {
                // One counts; until then the others go by what was known.
                counted.at = Instant::now();
                Room::Stale
            }
            Some(counted) if counted.waiting + OTHERS <= most => {
                counted.waiting += 1;
                Room::Taken
            }
            Some(_) => Room::Unsure,
        }
    }

    /// Notes how many wait now.
    pub(crate) fn counted(&self, waiting: i64) {
        *self.lock() = Some(Counted { at: Instant::now(), waiting });
    }

    fn lock(&self) -> MutexGuard<'_, Option<Counted>> {
        // A panic elsewhere cannot leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// How many tasks may wait at most, for an insert to see to; nothing where there is room anyway, and
    /// a place was taken. It is asked over `connection`, where it has to be.
    pub(crate) async fn bound<'c>(
        &self,
        connection: impl Executor<'c, Database = Any>,
    ) -> Result<Option<i64>, StoreError> {
        let most = self.max_queued;
        let room = match self.backlog.take(most) {
            Room::Stale => {
                let counted = sqlx::query(COUNT).bind(most).fetch_one(connection).await?;
                self.backlog.counted(row::int(&counted, "waiting")?);
                self.backlog.take(most)
            }
            room => room,
        };
        Ok((room != Room::Taken).then_some(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_from_the_bound_places_are_taken_without_a_count_and_near_it_none_is() {
        let backlog = Backlog::default();
        let most = OTHERS + 2;
        assert_eq!(backlog.take(most), Room::Stale, "nothing was counted yet");
        backlog.counted(1);
        assert_eq!(backlog.take(most), Room::Taken);
        assert_eq!(backlog.take(most), Room::Taken);
        assert_eq!(backlog.take(most), Room::Unsure);
        backlog.counted(0);
        assert_eq!(backlog.take(most), Room::Taken, "some of them were done meanwhile");
        assert_eq!(backlog.take(OTHERS - 1), Room::Unsure, "a small bound is always exact");
    }

    #[test]
    fn a_count_that_is_too_old_is_made_again_by_one() {
        let backlog = Backlog::default();
        *backlog.lock() = Instant::now().checked_sub(FRESH).map(|at| Counted { at, waiting: 0 });
        assert_eq!(backlog.take(OTHERS), Room::Stale);
        assert_eq!(backlog.take(OTHERS), Room::Taken);
    }
}
