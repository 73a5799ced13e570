//! Forgetting what nobody needs any more: ended VMs, finished tasks, old keys. Never a workspace,
//! and never a prompt.

use crate::{Store, StoreError, idempotency};
use aetherium_model::Timestamp;
use std::time::Duration;

/// What was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// VMs that had ended, with their executions.
    pub vms: u64,
    /// Tasks that had finished and whose prompt or execution is gone, if they had one.
    pub tasks: u64,
    /// Idempotency keys.
    pub keys: u64,
}

impl Store {
    /// Forgets VMs and tasks that ended more than `keep` ago, and expired keys.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn prune(&self, now: Timestamp, keep: Duration) -> Result<Pruned, StoreError> {
        let keep_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        let before = now.as_millis().saturating_sub(keep_ms);
        let statements = [
            // An execution belongs to its VM; a prompt has a workspace and stays.
            (
                "DELETE FROM runs WHERE workspace_id IS NULL AND vm_id IN \
                 (SELECT id FROM vms WHERE ended_at < $1)",
                before,
            ),
            // A log that is a task's own goes with its task.
            ("DELETE FROM runs WHERE id = task_id AND finished_at < $1", before),
            ("DELETE FROM vms WHERE ended_at < $1", before),
            (
                "DELETE FROM tasks WHERE finished_at < $1 AND NOT EXISTS \
                 (SELECT 1 FROM runs WHERE runs.task_id = tasks.id)",
                before,
            ),
            ("DELETE FROM idempotency WHERE created_at < $1", idempotency::forgotten_before(now)),
        ];
        self.change(|| async {
            let mut tx = self.begin().await?;
            let mut gone = [0; 5];
            for ((statement, before), gone) in statements.into_iter().zip(&mut gone) {
                *gone =
                    sqlx::query(statement).bind(before).execute(&mut *tx).await?.rows_affected();
            }
            tx.commit().await?;
            let [_, _, vms, tasks, keys] = gone;
            Ok(Pruned { vms, tasks, keys })
        })
        .await
    }
}
