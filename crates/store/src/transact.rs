//! Changes and questions: each change a transaction, each within a deadline.
//!
//! PostgreSQL may end a transaction for the sake of another: two that wait for each other's rows, or
//! that cannot both have come first. Nothing of it is left then, so it is simply done again, after a
//! pause that grows and differs from caller to caller. SQLite has one writer and never does that.
//!
//! The servers' own deadlines (see [`crate::connect`]) end what they work on too long. The ones here
//! end the wait for a server that cannot be heard any more.

use crate::{Store, StoreError, connect::Engine, fence, metrics::Asked};
use aetherium_model::event::By;
use sqlx::{
    Any, AnyConnection, Transaction,
    any::{AnyArguments, AnyRow},
    query::Query,
};
use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};

/// What a change may take, with all its tries.
const CHANGE: Duration = Duration::from_secs(30);
/// What a question may take.
const QUESTION: Duration = Duration::from_secs(15);
/// How often a change is tried that PostgreSQL ended for another's sake.
const TRIES: u32 = 8;
/// The longest pause before the second try; each further one may be twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(4);

/// A transaction, and on whose behalf it is made. Dropped before it is committed, it leaves nothing.
pub(crate) struct Tx {
    inner: Transaction<'static, Any>,
    pub(crate) by: Arc<By>,
}

impl Tx {
    pub(crate) async fn commit(self) -> Result<(), sqlx::Error> {
        self.inner.commit().await
    }
}

impl Deref for Tx {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.inner
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.inner
    }
}

impl Store {
    /// Makes a change, whose transaction `work` begins and commits. `work` may be done several times:
    /// it must change nothing but the database.
    pub(crate) async fn change<T, Work: Future<Output = Result<T, StoreError>>>(
        &self,
        work: impl Fn() -> Work,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        let done = within(CHANGE, async {
            let mut tried = 1;
            loop {
                match work().await {
                    Err(error) if tried < TRIES && error.asks_for_another_try() => {
                        tracing::debug!(%error, tried, "a change gave way to another");
                        self.metrics.retries.inc();
                        sleep(pause(tried)).await;
                        tried += 1;
                    }
                    done => return done,
                }
            }
        })
        .await;
        self.metrics.done(&Asked::CHANGE, began, &done);
        done
    }

    /// A transaction that outlives a power cut once it is committed, as far as the database's own
    /// settings go: what PostgreSQL waits for is its operator's choice, who may want replicas to
    /// have it too.
    pub(crate) async fn begin(&self) -> Result<Tx, StoreError> {
        let begin = match self.engine {
            Engine::Sqlite => "PRAGMA synchronous = FULL; BEGIN IMMEDIATE",
            Engine::Postgres => "BEGIN",
        };
        self.begin_as(begin).await
    }

    /// A transaction that outlives this process once it is committed, but perhaps not a power cut:
    /// for records that decide about nobody's work, whose callers wait. It never gets lost before
    /// what was committed earlier, and a later one that outlives a power cut makes it do so too.
    pub(crate) async fn begin_unsynced(&self) -> Result<Tx, StoreError> {
        let begin = match self.engine {
            Engine::Sqlite => "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE",
            Engine::Postgres => "BEGIN; SET LOCAL synchronous_commit = off",
        };
        self.begin_as(begin).await
    }

    async fn begin_as(&self, begin: &'static str) -> Result<Tx, StoreError> {
        let inner = self.write.begin_with(begin).await?;
        Ok(Tx { inner, by: Arc::clone(&self.by) })
    }

    /// A transaction of the worker whose tenure this store is for: as long as it lasts, nobody ends the
    /// tenure. Without one it is [`Store::begin`].
    pub(crate) async fn begin_fenced(&self) -> Result<Tx, StoreError> {
        let mut tx = self.begin().await?;
        fence::hold(&mut tx, self).await?;
        Ok(tx)
    }

    /// Every row that answers a question.
    pub(crate) async fn all(
        &self,
        question: Query<'_, Any, AnyArguments>,
    ) -> Result<Vec<AnyRow>, StoreError> {
        let began = Instant::now();
        let rows = within(QUESTION, async { Ok(question.fetch_all(&self.read).await?) }).await;
        self.metrics.done(&Asked::QUESTION, began, &rows);
        rows
    }

    /// The first row that answers a question, if any does.
    pub(crate) async fn first(
        &self,
        question: Query<'_, Any, AnyArguments>,
    ) -> Result<Option<AnyRow>, StoreError> {
        let began = Instant::now();
        let row = within(QUESTION, async { Ok(question.fetch_optional(&self.read).await?) }).await;
        self.metrics.done(&Asked::QUESTION, began, &row);
        row
    }
}

/// Ends the wait for a database that does not answer.
pub(crate) async fn within<T>(
    at_most: Duration,
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(at_most, asked).await.unwrap_or(Err(StoreError::Silent { after: at_most }))
}

/// Anything up to a bound that doubles, so that those who met once do not meet again.
fn pause(tried: u32) -> Duration {
    (FIRST_PAUSE * 2u32.pow(tried - 1)).mul_f64(rand::random())
}
