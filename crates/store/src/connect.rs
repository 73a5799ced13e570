//! Opening the database: its connections, how safely they write, and what they wait for.
//!
//! SQLite has one writer at a time. So all writing goes through one connection, whose transactions
//! take the write lock at their start (`BEGIN IMMEDIATE`) and thus never fail half-way for want of
//! it; reading has connections of its own that cannot write. PostgreSQL has one pool for both.
//!
//! SQLite runs with a write-ahead log and `synchronous=FULL`: a commit returns when the log is on
//! the disk. `NORMAL` would survive the death of the process but not a power cut, which could take
//! back a start mark after the guest has acted on it, and the command would run a second time.

use crate::{
    DatabaseUrl, Fence, StoreError, backlog::Backlog, metrics::StoreMetrics, migrate,
    transact::within,
};
use aetherium_model::{event::By, limits::MAX_QUEUED_TASKS};
use aetherium_secrets::MasterKeys;
use sqlx::{
    AnyPool,
    any::{AnyPoolOptions, install_default_drivers},
};
use std::{
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Arc, Once},
    time::Duration,
};

/// Connections that read from SQLite at once.
const SQLITE_READERS: u32 = 4;
/// Connections to PostgreSQL of one process. PostgreSQL allows 100 in all unless told otherwise.
const POSTGRES_CONNECTIONS: u32 = 16;
/// After this long a connection to PostgreSQL is replaced, unused ones sooner: behind its address
/// another server may have become the one to speak to.
const POSTGRES_LIFETIME: Duration = Duration::from_secs(1800);
const POSTGRES_IDLE: Duration = Duration::from_secs(300);
/// How long a caller waits for a connection, and a connection for SQLite's write lock, which
/// another process may hold.
const WAIT: Duration = Duration::from_secs(10);

const SQLITE_WRITER: &str = "PRAGMA journal_mode = WAL; \
     PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 10000;";
const SQLITE_READER: &str = "PRAGMA query_only = ON; PRAGMA busy_timeout = 10000;";
/// A statement gets what a caller waits for a connection, the wait for rows that others hold
/// included. Between two statements of a transaction nobody here waits for anything, so a client
/// that does has been stopped or cut off, and would make others wait for the rows it holds. The
/// isolation is PostgreSQL's default, which its operator may have changed; the updates that hold
/// rows are made for it.
const POSTGRES: &str = "SET application_name = 'aetherium'; SET statement_timeout = '10s'; \
     SET idle_in_transaction_session_timeout = '5s'; \
     SET default_transaction_isolation = 'read committed';";

/// Which database it is. Queries do not ask; only opening and locking do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// The database, open and with the schema this binary needs. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) read: AnyPool,
    pub(crate) write: AnyPool,
    pub(crate) engine: Engine,
    pub(crate) max_queued: i64,
    pub(crate) metrics: StoreMetrics,
    pub(crate) backlog: Arc<Backlog>,
    /// On whose behalf changes are made.
    pub(crate) by: Arc<By>,
    /// What secrets are encrypted with, where there are any.
    pub(crate) keys: Option<Arc<MasterKeys>>,
    /// The tenure in which all is done that a worker does.
    pub(crate) fence: Option<Fence>,
}

impl Store {
    /// Opens the database, creating a file that is not there (readable by its owner alone), and
    /// brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::SchemaTooNew`] or [`StoreError::Database`].
    pub async fn open(url: &DatabaseUrl) -> Result<Self, StoreError> {
        let store = Self::connect(url).await?;
        store.migrate().await?;
        Ok(store)
    }

    /// Opens the database as it is, for looking at its schema before changing it.
    ///
    /// # Errors
    /// [`StoreError::File`] or [`StoreError::Database`].
    pub async fn connect(url: &DatabaseUrl) -> Result<Self, StoreError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(install_default_drivers);
        let address = url.driver_url();
        let (read, write, engine) = match url {
            DatabaseUrl::Sqlite(path) => {
                create_private(path)?;
                // A connection to a file does not go stale, and a closed one would take its cache
                // along.
                let lasting = |pool: AnyPoolOptions| {
                    pool.idle_timeout(None).max_lifetime(None).test_before_acquire(false)
                };
                let write = lasting(pool(1, SQLITE_WRITER)).connect(&address).await?;
                let read = lasting(pool(SQLITE_READERS, SQLITE_READER)).connect(&address).await?;
                (read, write, Engine::Sqlite)
            }
            DatabaseUrl::Postgres(_) => {
                // Each is asked whether it still answers before it is used: a request must not fail
                // because its server was restarted since the one before.
                let both = pool(POSTGRES_CONNECTIONS, POSTGRES)
                    .idle_timeout(POSTGRES_IDLE)
                    .max_lifetime(POSTGRES_LIFETIME)
                    .connect(&address)
                    .await?;
                (both.clone(), both, Engine::Postgres)
            }
        };
        Ok(Self {
            read,
            write,
            engine,
            max_queued: MAX_QUEUED_TASKS,
            metrics: StoreMetrics::new(),
            backlog: Arc::default(),
            by: Arc::default(),
            keys: None,
            fence: None,
        })
    }

    /// Lets fewer tasks wait than [`MAX_QUEUED_TASKS`].
    #[must_use]
    pub fn with_max_queued(mut self, tasks: i64) -> Self {
        self.max_queued = tasks.min(MAX_QUEUED_TASKS);
        self
    }

    /// The same database, for changes that are made on behalf of `by`; the event log says so. Until
    /// it is told, the store changes things by itself.
    #[must_use]
    pub fn on_behalf_of(&self, by: By) -> Self {
        Self { by: Arc::new(by), ..self.clone() }
    }

    /// Asks the database a small question, over a connection for reading and one for writing.
    ///
    /// # Errors
    /// [`StoreError::Database`] if either does not answer.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let asked = "SELECT value FROM counters WHERE name = 'task'";
        within(WAIT, async {
            sqlx::query(asked).fetch_one(&self.read).await?;
            sqlx::query(asked).fetch_one(&self.write).await?;
            Ok(())
        })
        .await
    }

    /// The version of the database's schema; 0 if it has none yet.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn schema_version(&self) -> Result<i64, StoreError> {
        migrate::version_of(self).await
    }

    /// Brings the schema up to date, in one transaction that keeps others out. Doing it again
    /// changes nothing. Returns the version reached.
    ///
    /// # Errors
    /// [`StoreError::SchemaTooNew`] or [`StoreError::Database`].
    pub async fn migrate(&self) -> Result<i64, StoreError> {
        migrate::migrate(self).await
    }

    /// Closes every connection once it is idle. SQLite's log is folded into its file.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

fn pool(connections: u32, at_start: &'static str) -> AnyPoolOptions {
    AnyPoolOptions::new().max_connections(connections).acquire_timeout(WAIT).after_connect(
        move |connection, _| {
            Box::pin(async move {
                sqlx::raw_sql(at_start).execute(connection).await?;
                Ok(())
            })
        },
    )
}

/// SQLite gives its log and index files the mode of the database file.
fn create_private(path: &Path) -> Result<(), StoreError> {
    std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|source| StoreError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transact::Tx;

    #[tokio::test]
    async fn only_what_says_so_is_committed_without_being_synced() {
        /// What SQLite's `PRAGMA synchronous` answers.
        const NORMAL: i64 = 1;
        const FULL: i64 = 2;
        async fn synchronous(tx: &mut Tx) -> i64 {
            let row = sqlx::query("PRAGMA synchronous").fetch_one(&mut **tx).await.unwrap();
            sqlx::Row::get(&row, 0)
        }
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&DatabaseUrl::Sqlite(dir.path().join("x.db"))).await.unwrap();
        for _ in 0..2 {
            let mut tx = store.begin_unsynced().await.unwrap();
            assert_eq!(synchronous(&mut tx).await, NORMAL);
            tx.commit().await.unwrap();
            let mut tx = store.begin().await.unwrap();
            assert_eq!(synchronous(&mut tx).await, FULL);
            tx.commit().await.unwrap();
        }
    }
    /// Somebody was stopped (or cut off) in the middle of a change, and holds a row that every change
    /// with a task needs.
    #[tokio::test]
    async fn a_client_of_postgres_that_stops_half_way_gives_way() {
        let url = test_servers::Postgres::of_this_process().database().parse().unwrap();
        let (stopped, other) = (Store::open(&url).await.unwrap(), Store::open(&url).await.unwrap());
        let hold = "UPDATE counters SET value = value WHERE name = 'task'";
        let mut held = stopped.begin().await.unwrap();
        sqlx::query(hold).execute(&mut *held).await.unwrap();
        let mut tx = other.begin().await.unwrap();
        sqlx::query(hold).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        let late = held.commit().await;
        assert!(late.is_err(), "it was committed after others had the row");
    }

    #[tokio::test]
    async fn postgres_is_told_what_its_statements_may_take() {
        async fn setting(tx: &mut Tx, show: &'static str) -> String {
            sqlx::Row::get(&sqlx::query(show).fetch_one(&mut **tx).await.unwrap(), 0)
        }
        let url = test_servers::Postgres::of_this_process().database().parse().unwrap();
        let store = Store::open(&url).await.unwrap();
        let mut tx = store.begin().await.unwrap();
        assert_eq!(setting(&mut tx, "SHOW statement_timeout").await, "10s");
        assert_eq!(setting(&mut tx, "SHOW transaction_isolation").await, "read committed");
        assert_eq!(setting(&mut tx, "SHOW synchronous_commit").await, "on");
        drop(tx);
        let mut tx = store.begin_unsynced().await.unwrap();
        assert_eq!(setting(&mut tx, "SHOW synchronous_commit").await, "off");
    }
}
