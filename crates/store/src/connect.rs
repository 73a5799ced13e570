//! Opening the database: its connections, how safely they write, and its transactions.
//!
//! SQLite has one writer at a time. So all writing goes through one connection, whose transactions
//! take the write lock at their start (`BEGIN IMMEDIATE`) and thus never fail half-way for want of
//! it; reading has connections of its own that cannot write. PostgreSQL has one pool for both.
//!
//! SQLite runs with a write-ahead log and `synchronous=FULL`: a commit returns when the log is on
//! the disk. `NORMAL` would survive the death of the process but not a power cut, which could take
//! back a start mark after the guest has acted on it, and the command would run a second time.

use crate::{DatabaseUrl, StoreError, migrate};
use aetherium_model::limits::MAX_QUEUED_TASKS;
use sqlx::{
    Any, AnyPool, Transaction,
    any::{AnyPoolOptions, install_default_drivers},
};
use std::{os::unix::fs::OpenOptionsExt as _, path::Path, sync::Once, time::Duration};

/// Connections that read from SQLite at once.
const SQLITE_READERS: u32 = 4;
/// Connections to PostgreSQL of one process.
const POSTGRES_CONNECTIONS: u32 = 16;
/// How long a caller waits for a connection, and a connection for SQLite's write lock, which
/// another process may hold.
const WAIT: Duration = Duration::from_secs(10);

const SQLITE_WRITER: &str = "PRAGMA journal_mode = WAL; \
     PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 10000;";
const SQLITE_READER: &str = "PRAGMA query_only = ON; PRAGMA busy_timeout = 10000;";

/// Which database it is. Queries do not ask; only opening and locking do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

pub(crate) type Tx = Transaction<'static, Any>;

/// The database, open and with the schema this binary needs. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) read: AnyPool,
    write: AnyPool,
    pub(crate) engine: Engine,
    pub(crate) max_queued: i64,
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
                let write = pool(1, Some(SQLITE_WRITER)).connect(&address).await?;
                let read = pool(SQLITE_READERS, Some(SQLITE_READER)).connect(&address).await?;
                (read, write, Engine::Sqlite)
            }
            DatabaseUrl::Postgres(_) => {
                let both = pool(POSTGRES_CONNECTIONS, None).connect(&address).await?;
                (both.clone(), both, Engine::Postgres)
            }
        };
        Ok(Self { read, write, engine, max_queued: MAX_QUEUED_TASKS })
    }

    /// Lets fewer tasks wait than [`MAX_QUEUED_TASKS`].
    #[must_use]
    pub fn with_max_queued(mut self, tasks: i64) -> Self {
        self.max_queued = tasks.min(MAX_QUEUED_TASKS);
        self
    }

    /// Asks the database a small question, over a connection for reading and one for writing.
    ///
    /// # Errors
    /// [`StoreError::Database`] if either does not answer.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let asked = "SELECT value FROM counters WHERE name = 'task'";
        sqlx::query(asked).fetch_one(&self.read).await?;
        sqlx::query(asked).fetch_one(&self.write).await?;
        Ok(())
    }

    /// The version of the database's schema; 0 if it has none yet.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn schema_version(&self) -> Result<i64, StoreError> {
        let mut tx = self.begin().await?;
        migrate::version(&mut tx).await
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

    /// A transaction that survives a power cut once it is committed.
    pub(crate) async fn begin(&self) -> Result<Tx, StoreError> {
        self.begin_with("PRAGMA synchronous = FULL; BEGIN IMMEDIATE").await
    }

    /// A transaction that survives the end of this process once it is committed, but perhaps not a
    /// power cut: for records that decide about nobody's work, whose callers wait. It never gets lost
    /// before what was committed earlier, and a later durable commit makes it durable.
    pub(crate) async fn begin_unsynced(&self) -> Result<Tx, StoreError> {
        self.begin_with("PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE").await
    }

    async fn begin_with(&self, sqlite: &'static str) -> Result<Tx, StoreError> {
        Ok(match self.engine {
            Engine::Sqlite => self.write.begin_with(sqlite).await?,
            Engine::Postgres => self.write.begin().await?,
        })
    }
}

fn pool(connections: u32, at_start: Option<&'static str>) -> AnyPoolOptions {
    AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(WAIT)
        // A connection to a file does not go stale, and a closed one would take its cache along.
        .idle_timeout(None)
        .max_lifetime(None)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                if let Some(statements) = at_start {
                    sqlx::raw_sql(statements).execute(connection).await?;
                }
                Ok(())
            })
        })
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
}
