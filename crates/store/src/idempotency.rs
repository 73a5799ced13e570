//! Requests that may arrive twice: a key remembers what its first request made.

use crate::{StoreError, row, transact::Tx};
use aetherium_model::Timestamp;
use std::time::Duration;

/// How long a key is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 255;

/// A caller's key for one request, and what tells that request from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The caller's key, 1 to [`MAX_KEY_BYTES`] bytes. Who shares a store shares its keys.
    pub key: String,
    /// The SHA-256 of method, path and body, in hexadecimal.
    pub request_sha256: String,
}

/// What a create made, or had made before under the same key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created<T> {
    /// It was made now.
    New(T),
    /// The same request had made it; nothing was made now.
    Existing(T),
}

impl<T> Created<T> {
    /// The thing itself.
    pub fn into_inner(self) -> T {
        match self {
            Self::New(it) | Self::Existing(it) => it,
        }
    }

    /// Whether it was made now.
    pub const fn is_new(&self) -> bool {
        matches!(self, Self::New(_))
    }
}

/// Takes the key for `resource_id`, or returns the id that took it before.
pub(crate) async fn take(
    tx: &mut Tx,
    given: Option<&Idempotency>,
    resource_id: &str,
    now: Timestamp,
) -> Result<Option<String>, StoreError> {
    let Some(Idempotency { key, request_sha256 }) = given else { return Ok(None) };
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(StoreError::InvalidIdempotencyKey { bytes: key.len(), max: MAX_KEY_BYTES });
    }
    sqlx::query("DELETE FROM idempotency WHERE key = $1 AND created_at < $2")
        .bind(key)
        .bind(forgotten_before(now))
        .execute(&mut **tx)
        .await?;
    // Waits for a transaction that is taking the same key.
    let taken = sqlx::query(
        "INSERT INTO idempotency (key, request_sha256, resource_id, created_at) \
         VALUES ($1, $2, $3, $4) ON CONFLICT (key) DO NOTHING",
    )
    .bind(key)
    .bind(request_sha256)
    .bind(resource_id)
    .bind(now.as_millis())
    .execute(&mut **tx)
    .await?;
    if taken.rows_affected() == 1 {
        return Ok(None);
    }
    let first = sqlx::query("SELECT request_sha256, resource_id FROM idempotency WHERE key = $1")
        .bind(key)
        .fetch_one(&mut **tx)
        .await?;
    if row::text(&first, "request_sha256")? != *request_sha256 {
        return Err(StoreError::IdempotencyMismatch { key: key.clone() });
    }
    row::text(&first, "resource_id").map(Some)
}

/// Keys older than this moment are forgotten.
pub(crate) fn forgotten_before(now: Timestamp) -> i64 {
    now.as_millis().saturating_sub(i64::try_from(REMEMBERED.as_millis()).unwrap_or(i64::MAX))
}
