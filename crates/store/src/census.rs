//! How much there is of what: for operators, who want numbers and no rows.

use crate::{Store, StoreError, row};
use aetherium_model::Timestamp;

/// The tasks of one type that wait for a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The type's name, such as `vm:create`.
    pub kind: String,
    /// How many.
    pub tasks: u64,
    /// When the oldest of them was made.
    pub oldest: Timestamp,
}

impl Store {
    /// The tasks that wait, by type; types of which none waits are left out.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn waiting(&self) -> Result<Vec<Waiting>, StoreError> {
        let asked = "SELECT kind, COUNT(*) AS tasks, MIN(created_at) AS oldest FROM tasks \
                     WHERE state = 'queued' GROUP BY kind ORDER BY kind";
        let rows = self.all(sqlx::query(asked)).await?;
        rows.iter()
            .map(|found| {
                Ok(Waiting {
                    kind: row::text(found, "kind")?,
                    tasks: row::number(found, "tasks")?,
                    oldest: row::time(found, "oldest")?,
                })
            })
            .collect()
    }

    /// The VMs that have not ended, by the name of their state; states that none is in are left out.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn vms_by_state(&self) -> Result<Vec<(String, u64)>, StoreError> {
        let asked = "SELECT state, COUNT(*) AS vms FROM vms WHERE ended_at IS NULL \
                     GROUP BY state ORDER BY state";
        let rows = self.all(sqlx::query(asked)).await?;
        rows.iter()
            .map(|found| Ok((row::text(found, "state")?, row::number(found, "vms")?)))
            .collect()
    }
}
