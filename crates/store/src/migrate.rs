//! The schema's versions, embedded, each valid for both databases; applied under a lock.
//!
//! A version that was released is never edited: a change is a new file with the next number.

use crate::{
    Store, StoreError,
    connect::Engine,
    row,
    transact::{Tx, within},
};
use aetherium_model::Timestamp;
use std::time::Duration;

/// Every version in order, from 1 without gaps.
const MIGRATIONS: [&str; 9] = [
    include_str!("../migrations/0001_first.sql"),
    include_str!("../migrations/0002_vm_devices.sql"),
    include_str!("../migrations/0003_tasks.sql"),
    include_str!("../migrations/0004_fleet.sql"),
    include_str!("../migrations/0005_events.sql"),
    include_str!("../migrations/0006_task_trace.sql"),
    include_str!("../migrations/0007_secrets.sql"),
    include_str!("../migrations/0008_hibernation.sql"),
    include_str!("../migrations/0009_environments.sql"),
];

/// What PostgreSQL gets besides, with the version it belongs to: what SQLite has no words for and,
/// with its one writer, no need of.
const FOR_POSTGRES: [(i64, &str); 1] = [(3, include_str!("../migrations/postgres/0003_tasks.sql"))];

/// The key of PostgreSQL's advisory lock for migrations: "aeth" in ASCII.
const LOCK: &str = "SELECT pg_advisory_xact_lock(1634038888)::text";

/// What bringing a schema up to date may take, with the wait for another process that is at it.
const LONGEST: Duration = Duration::from_secs(600);
/// The same for PostgreSQL, in place of what its other statements get.
const PATIENCE: &str = "SET LOCAL statement_timeout = '600s'";

const JOURNAL: &str = "CREATE TABLE IF NOT EXISTS schema_versions \
     (version BIGINT NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL)";

/// The newest version this binary knows.
#[allow(clippy::cast_possible_wrap, reason = "a handful of files")]
pub(crate) const KNOWN: i64 = MIGRATIONS.len() as i64;

pub(crate) async fn migrate(store: &Store) -> Result<i64, StoreError> {
    within(LONGEST, async {
        let mut tx = alone(store).await?;
        let found = version(&mut tx).await?;
        if found > KNOWN {
            return Err(StoreError::SchemaTooNew { found, known: KNOWN });
        }
        for (version, statements) in (1i64..).zip(MIGRATIONS).filter(|(it, _)| *it > found) {
            sqlx::raw_sql(statements).execute(&mut *tx).await?;
            let besides = FOR_POSTGRES.iter().filter(|_| store.engine == Engine::Postgres);
            for (_, statements) in besides.filter(|(it, _)| *it == version) {
                sqlx::raw_sql(*statements).execute(&mut *tx).await?;
            }
            sqlx::query("INSERT INTO schema_versions (version, applied_at) VALUES ($1, $2)")
                .bind(version)
                .bind(Timestamp::from(std::time::SystemTime::now()).as_millis())
                .execute(&mut *tx)
                .await?;
            tracing::info!(version, "database schema updated");
        }
        tx.commit().await?;
        Ok(KNOWN)
    })
    .await
}

/// The version of the schema that is there, which nothing is changed about.
pub(crate) async fn version_of(store: &Store) -> Result<i64, StoreError> {
    within(LONGEST, async { version(&mut alone(store).await?).await }).await
}

/// A transaction that no other of its kind runs beside, in this process or another.
async fn alone(store: &Store) -> Result<Tx, StoreError> {
    let mut tx = store.begin().await?;
    if store.engine == Engine::Postgres {
        sqlx::raw_sql(PATIENCE).execute(&mut *tx).await?;
        sqlx::query(LOCK).execute(&mut *tx).await?;
    }
    Ok(tx)
}

async fn version(tx: &mut Tx) -> Result<i64, StoreError> {
    sqlx::query(JOURNAL).execute(&mut **tx).await?;
    let newest = sqlx::query("SELECT COALESCE(MAX(version), 0) AS version FROM schema_versions")
        .fetch_one(&mut **tx)
        .await?;
    row::int(&newest, "version")
}
