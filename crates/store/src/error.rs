//! What can go wrong in the store, and the [`Fault`] it becomes for callers.

use aetherium_model::{Code, Fault, WorkerId, room::Room, secret::SecretName};
use aetherium_secrets::SealError;
use std::path::PathBuf;

/// Why an operation of the store was not done. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database's address cannot be used.
    #[error(
        "{given:?} is not a database address: {problem}; give sqlite:///absolute/path or postgres://user@host/database"
    )]
    InvalidUrl {
        /// What was given, without its password.
        given: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The database's file cannot be created or opened.
    #[error("cannot open the database file {path}: {source}; check that its directory exists and is writable", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// There is no such thing.
    #[error("there is no {what} {id}")]
    NotFound {
        /// Its kind.
        what: &'static str,
        /// The id or name that was looked for.
        id: String,
    },
    /// The thing is in a state in which this cannot be done.
    #[error("{detail}")]
    Conflict {
        /// What is in the way, with its name.
        detail: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// As many tasks wait as may wait.
    #[error("{waiting} tasks are waiting, which is as many as may; try again later")]
    Busy {
        /// How many.
        waiting: i64,
    },
    /// The project may use no more.
    #[error(transparent)]
    Quota(#[from] aetherium_model::project::Exceeded),
    /// The key was used before with another request.
    #[error(
        "the idempotency key {key:?} was used before with another request; use a new key for a new request"
    )]
    IdempotencyMismatch {
        /// The key.
        key: String,
    },
    /// A key that cannot be stored.
    #[error("an idempotency key has 1 to {max} bytes, this one has {bytes}")]
    InvalidIdempotencyKey {
        /// Its length.
        bytes: usize,
        /// The longest allowed.
        max: usize,
    },
    /// A page was asked for after something that is not an id of the list's kind.
    #[error(
        "{given:?} is not a cursor of this list; pass next_cursor of the page before, unchanged"
    )]
    InvalidCursor {
        /// What was given.
        given: String,
    },
    /// The run has ended, nothing can be added to it.
    #[error("{run} is {state} and takes no more events")]
    RunEnded {
        /// The prompt or execution.
        run: String,
        /// Its terminal state.
        state: String,
    },
    /// The worker has no room for it, or takes none.
    #[error("worker {worker} cannot take {wanted}: {why}")]
    NoRoom {
        /// The worker.
        worker: WorkerId,
        /// What it was asked to take.
        wanted: Room,
        /// What is in the way.
        why: String,
    },
    /// The worker's tenure is over: another process of it has begun, or it was declared gone.
    #[error(
        "epoch {held} of worker {worker} is over; what was begun in it is not written any more"
    )]
    Fenced {
        /// The worker.
        worker: WorkerId,
        /// The epoch that was held.
        held: i64,
    },
    /// The database was written by a newer Aetherium.
    #[error(
        "the database has schema {found}, this binary knows up to {known}; use the newer binary, or restore a backup made before the upgrade"
    )]
    SchemaTooNew {
        /// The version in the database.
        found: i64,
        /// The newest version this binary knows.
        known: i64,
    },
    /// A stored value is not what this binary writes.
    #[error("column {column} holds what this binary does not understand: {problem}")]
    Corrupt {
        /// The column.
        column: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A secret that is asked for does not exist.
    #[error("there is no secret named {name}, neither in the workspace nor in the project")]
    SecretMissing {
        /// Its name.
        name: SecretName,
    },
    /// There is nothing to encrypt secrets with.
    #[error("secrets are kept encrypted, and no master key was named")]
    NoKeys,
    /// Something encrypted cannot be opened.
    #[error("a secret cannot be decrypted: {0}")]
    Sealed(#[from] SealError),
    /// The database cannot be heard.
    #[error(
        "the database did not answer within {after:?}, so whether it did what it was asked is not known; look before asking again"
    )]
    Silent {
        /// How long it was waited for.
        after: std::time::Duration,
    },
    /// The database did not do what it was asked.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
}

impl StoreError {
    pub(crate) fn not_found(what: &'static str, id: impl ToString) -> Self {
        Self::NotFound { what, id: id.to_string() }
    }

    /// The stable code of this error.
    pub fn code(&self) -> Code {
        match self {
            Self::InvalidUrl { .. } | Self::InvalidIdempotencyKey { .. } => Code::InvalidRequest,
            Self::InvalidCursor { .. } => Code::InvalidRequest,
            Self::NotFound { .. } => Code::NotFound,
            Self::Conflict { .. } | Self::RunEnded { .. } => Code::Conflict,
            Self::Busy { .. } => Code::Busy,
            Self::Quota(_) => Code::QuotaExceeded,
            Self::NoRoom { .. } => Code::NoCapacity,
            Self::Fenced { .. } => Code::WorkerLost,
            Self::IdempotencyMismatch { .. } => Code::IdempotencyMismatch,
            Self::SecretMissing { .. } => Code::SecretMissing,
            Self::NoKeys | Self::Sealed(_) => Code::SecretUnreadable,
            Self::Database(error) if is_out_of_space(error) => Code::DiskFull,
            Self::Database(error) if is_passing(error) => Code::Unavailable,
            Self::File { .. } | Self::SchemaTooNew { .. } | Self::Silent { .. } => {
                Code::Unavailable
            }
            Self::Corrupt { .. } | Self::Database(_) => Code::Internal,
        }
    }

    /// Whether PostgreSQL ended the transaction for the sake of another and left nothing of it, so
    /// that doing it again may well succeed: its `serialization_failure` and `deadlock_detected`.
    pub(crate) fn asks_for_another_try(&self) -> bool {
        let Self::Database(error) = self else { return false };
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        matches!(code.as_deref(), Some("40001" | "40P01"))
    }
}

/// SQLite's SQLITE_FULL and PostgreSQL's `disk_full`.
fn is_out_of_space(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    matches!(code.as_deref(), Some("13" | "53100"))
}

/// Whether the same call may well succeed in a moment: no connection to be had, SQLite's
/// SQLITE_BUSY (with its extended codes), PostgreSQL's `serialization_failure`,
/// `deadlock_detected`, `query_canceled` by a deadline, `idle_in_transaction_session_timeout`,
/// `too_many_connections`, and its shutting down, crashing or starting.
fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
        sqlx::Error::Database(error) => matches!(
            error.code().as_deref(),
            Some(
                "5" | "261"
                    | "517"
                    | "773"
                    | "40001"
                    | "40P01"
                    | "53300"
                    | "57014"
                    | "25P03"
                    | "57P01"
                    | "57P02"
                    | "57P03"
            )
        ),
        _ => false,
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        if let StoreError::Quota(exceeded) = error {
            return exceeded.into();
        }
        let code = error.code();
        let remedy = match &error {
            StoreError::Conflict { remedy, .. } => remedy,
            StoreError::NotFound { .. } => "list what there is",
            StoreError::SecretMissing { .. } => "set it with `aetherium secret set`",
            StoreError::NoKeys => "name the file of master keys with --secrets-keys-file",
            StoreError::Sealed(_) => {
                "add the key to the file of --secrets-keys-file, or set the secret again"
            }
            StoreError::Database(_) if code == Code::DiskFull => "free space for the database",
            StoreError::Database(_) if code == Code::Unavailable => "try again in a moment",
            StoreError::Database(_) | StoreError::Corrupt { .. } => {
                "report it with the server's log of this moment"
            }
            _ => "",
        };
        Self::new(code, error.to_string()).remedy(remedy)
    }
}
