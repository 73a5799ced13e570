//! Delivery: claiming tasks under a lease, and what becomes of a claim.
//!
//! A claim is the [`Task`] as [`Store::claim_waiting`] returned it; its number of attempts tells it
//! from the claims before and after. Every later step names the claim, and one that no longer
//! holds changes nothing. What becomes of a lost claim is decided by
//! [`recover`](aetherium_model::task::recover), and only there.

use crate::{Store, StoreError, fence, row, task_events, tasks, transact::Tx};
use aetherium_model::{
    Fault, TaskId, Timestamp, WorkerId,
    task::{Loss, Recovery, Task, TaskState, recover},
};
use sqlx::{Any, any::AnyArguments, query::Query};

/// Which tasks of worker `$1` may run at `$2`. Of one serial key it is the first; one that is put off by
/// its maker waits beside the others, until its time has come.
macro_rules! may_run {
    () => {
        "worker_id = $1 AND state = 'queued' AND not_before <= $2 \
         AND (deadline IS NULL OR deadline > $2 OR started_at IS NOT NULL) \
         AND (serial_key IS NULL OR NOT EXISTS ( \
         SELECT 1 FROM tasks AS other WHERE other.serial_key = next.serial_key \
         AND other.finished_at IS NULL AND (other.lease_until IS NOT NULL \
         OR (other.seq < next.seq AND (other.run_at IS NULL OR other.run_at <= $2)))))"
    };
}

/// Puts tasks into hands until `$3`.
macro_rules! claim {
    ($tasks:literal) => {
        concat!(
            "UPDATE ",
            $tasks,
            " SET state = CASE WHEN started_at IS NULL THEN 'claimed' ELSE 'started' END, \
             attempts = attempts + 1, lease_until = $3"
        )
    };
}

/// Whether the worker's tenure `$5`, if it has one, is not over. Nothing keeps it from ending right after:
/// a claim lets nothing run, and the start mark is written under the tenure's own row.
macro_rules! in_tenure {
    () => {
        "($5 IS NULL OR EXISTS \
         (SELECT 1 FROM worker_epochs WHERE worker_id = $1 AND epoch = $5))"
    };
}

/// How often a claim looks again when others were faster, before it reports that there is nothing.
const CLAIM_ROUNDS: u32 = 8;

/// Not put off: whatever the clock of the machine says that claims it.
const AT_ONCE: Timestamp = Timestamp::from_millis(0);

/// Whether a claim still held when it was to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum TaskEnd {
    /// The end is written.
    Written,
    /// The claim was lost or the task had ended; nothing was changed.
    NotOurs,
}

/// A task whose claim was lost, and what was done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The task as it was found.
    pub task: Task,
    /// What was decided and written.
    pub verdict: Recovery,
}

impl Store {
    /// Hands out tasks of a worker that may run now, those whose turn is earliest first, at most so
    /// many, until `lease_until`.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] or [`StoreError::Database`].
    pub async fn claim_waiting(
        &self,
        worker_id: WorkerId,
        at_most: usize,
        now: Timestamp,
        lease_until: Timestamp,
    ) -> Result<Vec<Task>, StoreError> {
        let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
        for _ in 0..CLAIM_ROUNDS {
            // Without the write lock: most looks find nothing. What may run now still may in a
            // moment, unless somebody else has taken it.
            let waiting = self
                .first(
                    sqlx::query(concat!(
                        "SELECT id FROM tasks AS next WHERE ",
                        may_run!(),
                        " LIMIT 1"
                    ))
                    .bind(worker_id.to_string())
                    .bind(now.as_millis()),
                )
                .await?;
            if waiting.is_none() {
                return Ok(Vec::new());
            }
            let claimed = self
                .claim(|| {
                    sqlx::query(concat!(
                        claim!("tasks"),
                        " WHERE state = 'queued' AND not_before <= $2 AND id IN \
                         (SELECT id FROM tasks AS next WHERE ",
                        may_run!(),
                        " ORDER BY turn, seq LIMIT $4) AND ",
                        in_tenure!(),
                        " RETURNING *"
                    ))
                    .bind(worker_id.to_string())
                    .bind(now.as_millis())
                    .bind(lease_until.as_millis())
                    .bind(at_most)
                    .bind(self.fence.map(|fence| fence.epoch.0))
                })
                .await?;
            if !claimed.is_empty() {
                return Ok(claimed);
            }
        }
        Ok(Vec::new())
    }

    /// Hands out one task of a worker, whatever others wait, if it may run now.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn claim_hinted(
        &self,
        worker_id: WorkerId,
        id: TaskId,
        now: Timestamp,
        lease_until: Timestamp,
    ) -> Result<Option<Task>, StoreError> {
        let claimed = self
            .claim(|| {
                sqlx::query(concat!(
                    claim!("tasks AS next"),
                    " WHERE id = $4 AND ",
                    may_run!(),
                    " AND ",
                    in_tenure!(),
                    " RETURNING *"
                ))
                .bind(worker_id.to_string())
                .bind(now.as_millis())
                .bind(lease_until.as_millis())
                .bind(id.to_string())
                .bind(self.fence.map(|fence| fence.epoch.0))
            })
            .await?;
        Ok(claimed.into_iter().next())
    }

    /// One statement, which is a transaction of its own: a claim that a power cut takes back was of a
    /// process that is gone too, and whose start mark it would have kept.
    async fn claim<'q>(
        &self,
        statement: impl Fn() -> Query<'q, Any, AnyArguments>,
    ) -> Result<Vec<Task>, StoreError> {
        self.change(|| async {
            match statement().fetch_all(&self.write).await {
                Ok(rows) if rows.is_empty() => {
                    fence::check(self).await?;
                    Ok(Vec::new())
                }
                Ok(rows) => rows.iter().map(tasks::decode).collect(),
                // Another of the same serial key came into somebody's hands meanwhile.
                Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(Vec::new()),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// When the next task of a worker that is put off may run, or the next that waits must not start any
    /// more.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn next_due(
        &self,
        worker_id: WorkerId,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        let question = sqlx::query(
            "SELECT MIN(moment) AS due FROM ( \
             SELECT MIN(not_before) AS moment FROM tasks \
             WHERE worker_id = $1 AND state = 'queued' AND not_before > $2 UNION ALL \
             SELECT MIN(deadline) AS moment FROM tasks \
             WHERE worker_id = $1 AND state = 'queued' AND deadline > $2) AS moments",
        )
        .bind(worker_id.to_string())
        .bind(now.as_millis());
        match self.first(question).await? {
            Some(found) => row::maybe_time(&found, "due"),
            None => Ok(None),
        }
    }

    /// Extends the leases of claims, and returns the tasks that are still ours.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn renew(
        &self,
        claims: &[Task],
        lease_until: Timestamp,
    ) -> Result<Vec<TaskId>, StoreError> {
        self.change(|| async {
            let mut tx = self.begin_fenced().await?;
            let mut ours = Vec::with_capacity(claims.len());
            for claim in claims {
                let renewed = sqlx::query(
                    "UPDATE tasks SET lease_until = $4 WHERE id = $1 AND worker_id = $2 \
                     AND attempts = $3 AND state IN ('claimed', 'started')",
                )
                .bind(claim.id.to_string())
                .bind(claim.worker_id.to_string())
                .bind(i64::from(claim.attempts))
                .bind(lease_until.as_millis())
                .execute(&mut *tx)
                .await?;
                if renewed.rows_affected() == 1 {
                    ours.push(claim.id);
                }
            }
            tx.commit().await?;
            Ok(ours)
        })
        .await
    }

    /// Ends a task, and with it a run that has not ended by itself.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if `state` is not an end, or [`StoreError::Database`].
    pub async fn finish_task(
        &self,
        claim: &Task,
        state: TaskState,
        fault: Option<&Fault>,
        now: Timestamp,
    ) -> Result<TaskEnd, StoreError> {
        if !state.is_terminal() {
            return Err(StoreError::Conflict {
                detail: format!("task {} cannot end as {}", claim.id, state.as_str()),
                remedy: "give a terminal state",
            });
        }
        self.change(|| async {
            let mut tx = self.begin().await?;
            let Some(task) = tasks::held(&mut tx, claim).await? else {
                return Ok(TaskEnd::NotOurs);
            };
            tasks::end(&mut tx, &task, state, fault, now).await?;
            tx.commit().await?;
            Ok(TaskEnd::Written)
        })
        .await
    }

    /// Ends a task whose handler broke down: interrupted where the guest may have run something,
    /// else failed.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn crash_task(
        &self,
        claim: &Task,
        fault: &Fault,
        now: Timestamp,
    ) -> Result<TaskEnd, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let Some(task) = tasks::held(&mut tx, claim).await? else {
                return Ok(TaskEnd::NotOurs);
            };
            let may_have_run = task.state == TaskState::Started && !task.kind.is_idempotent();
            let state = if may_have_run { TaskState::Interrupted } else { TaskState::Failed };
            tasks::end(&mut tx, &task, state, Some(fault), now).await?;
            tx.commit().await?;
            Ok(TaskEnd::Written)
        })
        .await
    }

    /// Gives a claim up, to be handed out again from `not_before` on, where that is allowed:
    /// a task that may have run, was cancelled, or was tried too often ends instead. `why` is what
    /// went wrong, if anything. Returns what was done, or `None` if the claim was lost.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn requeue(
        &self,
        claim: &Task,
        not_before: Timestamp,
        why: Option<&Fault>,
        now: Timestamp,
    ) -> Result<Option<Recovery>, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let Some(task) = tasks::held(&mut tx, claim).await? else { return Ok(None) };
            let verdict = recover(&task, Loss::LetGo);
            let verdict = write_recovery(&mut tx, &task, verdict, not_before, why, now).await?;
            tx.commit().await?;
            Ok(Some(verdict))
        })
        .await
    }

    /// Recovers every task in the hands of a worker, which has just begun and holds none, and has
    /// taken over its VMs.
    ///
    /// # Errors
    /// [`StoreError::Database`]; what was recovered before it stays so.
    pub async fn recover_worker(
        &self,
        worker_id: WorkerId,
        now: Timestamp,
    ) -> Result<Vec<Recovered>, StoreError> {
        let held = self.all(sqlx::query(
            "SELECT * FROM tasks WHERE worker_id = $1 AND lease_until IS NOT NULL ORDER BY seq",
        )
        .bind(worker_id.to_string())).await?;
        self.recover_all(&held, Loss::Restarted, Timestamp::from_millis(i64::MAX), now).await
    }

    /// Recovers every task whose lease ran out before `now`, of any worker.
    ///
    /// # Errors
    /// [`StoreError::Database`]; what was recovered before it stays so.
    pub async fn recover_expired(&self, now: Timestamp) -> Result<Vec<Recovered>, StoreError> {
        let expired = "SELECT * FROM tasks WHERE lease_until < $1 ORDER BY seq";
        let held = self.all(sqlx::query(expired).bind(now.as_millis())).await?;
        self.recover_all(&held, Loss::LetGo, now, now).await
    }

    /// Fails every task, of any worker, that waits and was to start by `now` at the latest.
    ///
    /// # Errors
    /// [`StoreError::Database`]; what was failed before it stays so.
    pub async fn fail_overdue(&self, now: Timestamp) -> Result<Vec<Recovered>, StoreError> {
        let overdue = "SELECT * FROM tasks WHERE state = 'queued' AND deadline <= $1 \
                       AND started_at IS NULL ORDER BY seq";
        let rows = self.all(sqlx::query(overdue).bind(now.as_millis())).await?;
        let mut failed = Vec::with_capacity(rows.len());
        for row in &rows {
            let id = tasks::decode(row)?.id;
            let ended = self.change(|| async {
                let mut tx = self.begin().await?;
                let task = tasks::lock(&mut tx, id).await?;
                let Some(fault) = task.overdue(now).filter(|_| task.state == TaskState::Queued)
                else {
                    return Ok(None);
                };
                tasks::end(&mut tx, &task, TaskState::Failed, Some(&fault), now).await?;
                tx.commit().await?;
                Ok(Some(Recovered { task, verdict: Recovery::GiveUp(fault) }))
            });
            failed.extend(ended.await?);
        }
        Ok(failed)
    }

    /// One transaction for each, which looks again: a claim may have been renewed or ended since.
    async fn recover_all(
        &self,
        held: &[sqlx::any::AnyRow],
        loss: Loss,
        lease_before: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Recovered>, StoreError> {
        let mut recovered = Vec::with_capacity(held.len());
        for row in held {
            let claim = tasks::decode(row)?;
            recovered.extend(self.recover(&claim, loss, lease_before, now).await?);
        }
        Ok(recovered)
    }

    async fn recover(
        &self,
        claim: &Task,
        loss: Loss,
        lease_before: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Recovered>, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let lost = sqlx::query(
                "UPDATE tasks SET id = id WHERE id = $1 AND attempts = $2 AND lease_until < $3 \
                 RETURNING *",
            )
            .bind(claim.id.to_string())
            .bind(i64::from(claim.attempts))
            .bind(lease_before.as_millis())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(task) = lost.as_ref().map(tasks::decode).transpose()? else { return Ok(None) };
            let verdict = recover(&task, loss);
            let verdict = write_recovery(&mut tx, &task, verdict, AT_ONCE, None, now).await?;
            tx.commit().await?;
            Ok(Some(Recovered { task, verdict }))
        })
        .await
    }
}

/// Writes what was decided to become of a task whose claim is given up or lost.
pub(crate) async fn write_recovery(
    tx: &mut Tx,
    task: &Task,
    verdict: Recovery,
    not_before: Timestamp,
    why: Option<&Fault>,
    now: Timestamp,
) -> Result<Recovery, StoreError> {
    let verdict = match verdict {
        Recovery::GiveUp(fault) => {
            Recovery::GiveUp(fault.evidence(why.map(|last| format!("the last time: {last}"))))
        }
        verdict => verdict,
    };
    if matches!(verdict, Recovery::Requeue | Recovery::Resume) {
        task_events::retried(tx, task, why, now).await?;
    }
    match &verdict {
        Recovery::Requeue => {
            sqlx::query(
                "UPDATE tasks SET state = 'queued', lease_until = NULL, not_before = $2, \
                 started_at = NULL, fault_json = $3 WHERE id = $1",
            )
            .bind(task.id.to_string())
            .bind(not_before.as_millis())
            .bind(why.map(row::to_json).transpose()?)
            .execute(&mut **tx)
            .await?;
        }
        // What it had started is still there, and so is its mark.
        Recovery::Resume => {
            sqlx::query("UPDATE tasks SET state = 'queued', lease_until = NULL WHERE id = $1")
                .bind(task.id.to_string())
                .execute(&mut **tx)
                .await?;
        }
        Recovery::Interrupt(fault) => {
            tasks::end(tx, task, TaskState::Interrupted, Some(fault), now).await?;
        }
        Recovery::GiveUp(fault) => {
            tasks::end(tx, task, TaskState::Failed, Some(fault), now).await?;
            sqlx::query("UPDATE tasks SET dead = 1 WHERE id = $1")
                .bind(task.id.to_string())
                .execute(&mut **tx)
                .await?;
        }
        Recovery::Cancel => tasks::end(tx, task, TaskState::Cancelled, None, now).await?,
    }
    Ok(verdict)
}
