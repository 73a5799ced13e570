//! Rotation: everything that is encrypted, brought under the newest master key.
//!
//! Each row is a change of its own, made only where the row is still as it was read. So it can be ended at any
//! time and begun again, by several at once, while secrets are being set and read.

use crate::{Store, StoreError, row, secrets, webhooks};
use aetherium_secrets::{MasterKeys, SealError, Sealed};
use sqlx::any::AnyRow;

/// Rows that are read at once.
const BATCH: i64 = 100;

/// What came of a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rotation {
    /// Rows that are under the newest key now, and were not before.
    pub rewrapped: u64,
    /// Rows that could not be opened, by id, and why. They are as they were.
    pub failed: Vec<(String, SealError)>,
}

/// A table with something encrypted.
struct Table {
    /// Rows after an id that are not under a key.
    stale: &'static str,
    /// Writes one that is still as it was.
    rewrite: &'static str,
    rewrap: fn(&AnyRow, &MasterKeys) -> Result<Stale, StoreError>,
}

/// A row that is not under the newest key.
pub(crate) struct Stale {
    pub(crate) id: String,
    /// What is in the column now.
    pub(crate) before: String,
    pub(crate) after: Result<Sealed, SealError>,
}

const TABLES: [Table; 2] = [
    Table {
        stale: "SELECT * FROM secrets WHERE key_id <> $1 AND id > $2 ORDER BY id LIMIT $3",
        rewrite: "UPDATE secrets SET key_id = $2, envelope = $3 WHERE id = $1 AND envelope = $4",
        rewrap: |from, keys| {
            let row = secrets::Row::decode(from)?;
            let after = keys.rewrap(&row.sealed, &row.binding());
            Ok(Stale { id: row.secret.id.to_string(), before: row.sealed.envelope, after })
        },
    },
    Table {
        stale: "SELECT * FROM webhooks WHERE (secret_key_id IS NULL OR secret_key_id <> $1) \
                AND id > $2 ORDER BY id LIMIT $3",
        rewrite: "UPDATE webhooks SET secret_key_id = $2, secret = $3 WHERE id = $1 AND secret = $4",
        rewrap: webhooks::rewrap,
    },
];

/// What is encrypted, by the key it is under, with one row of each.
const KEYS_IN_USE: [&str; 2] = [
    "SELECT * FROM secrets WHERE id IN (SELECT MIN(id) FROM secrets GROUP BY key_id)",
    "SELECT * FROM webhooks WHERE id IN (SELECT MIN(id) FROM webhooks GROUP BY secret_key_id)",
];

impl Store {
    /// Brings rows under the newest key, `at_most` of them. What was done stays done, whenever it ends.
    ///
    /// # Errors
    /// [`StoreError::NoKeys`] or [`StoreError::Database`].
    pub async fn rotate_secrets(&self, at_most: u64) -> Result<Rotation, StoreError> {
        let keys = self.keys()?;
        let mut done = Rotation::default();
        for table in TABLES {
            let mut after = String::new();
            loop {
                let page = sqlx::query(table.stale)
                    .bind(keys.newest().as_str())
                    .bind(after.clone())
                    .bind(BATCH);
                let rows = self.all(page).await?;
                let Some(last) = rows.last() else { break };
                after = row::text(last, "id")?;
                for row in &rows {
                    if done.rewrapped >= at_most {
                        return Ok(done);
                    }
                    let stale = (table.rewrap)(row, keys)?;
                    match stale.after {
                        Ok(sealed) => {
                            let written = self.rewrite(&table, &stale.id, &stale.before, &sealed);
                            done.rewrapped += written.await?;
                        }
                        Err(why) => done.failed.push((stale.id, why)),
                    }
                }
            }
        }
        Ok(done)
    }

    async fn rewrite(
        &self,
        table: &Table,
        id: &str,
        before: &str,
        sealed: &Sealed,
    ) -> Result<u64, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let written = sqlx::query(table.rewrite)
                .bind(id)
                .bind(sealed.key_id.as_str())
                .bind(&sealed.envelope)
                .bind(before)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(written.rows_affected())
        })
        .await
    }

    /// Checks that whatever is encrypted can be read with the keys that there are, by one row of each key
    /// in use. Webhooks' secrets of earlier versions, which are in clear, are encrypted.
    ///
    /// # Errors
    /// [`StoreError::NoKeys`] where something is encrypted, or should be, [`StoreError::Sealed`] or
    /// [`StoreError::Database`].
    pub async fn check_keys(&self) -> Result<(), StoreError> {
        let [secrets, webhooks] = KEYS_IN_USE;
        let (secrets, webhooks) =
            (self.all(sqlx::query(secrets)).await?, self.all(sqlx::query(webhooks)).await?);
        if self.keys.is_none() && secrets.is_empty() && webhooks.is_empty() {
            return Ok(());
        }
        let keys = self.keys()?;
        for row in &secrets {
            let row = secrets::Row::decode(row)?;
            keys.open(&row.sealed, &row.binding())?;
        }
        let mut in_clear = false;
        for row in &webhooks {
            in_clear |= row::maybe_text(row, "secret_key_id")?.is_none();
            webhooks::unseal(row, keys)?;
        }
        if in_clear {
            self.rotate_secrets(u64::MAX).await?;
        }
        Ok(())
    }
}
