//! Tasks: the durable truth of what is to be done. Reading, cancelling, and the steps that other
//! rooms of this crate take with a task's row inside their transactions.

use crate::{
    Created, Idempotency, RunRef, Store, StoreError, idempotency, page, row, runs, task_log,
    transact::Tx,
};
use aetherium_model::{
    Code, Fault, TaskId, Timestamp, WorkerId,
    page::{Page, PageRequest},
    run::RunState,
    task::{Task, TaskState},
};
use sqlx::any::AnyRow;

/// Which tasks a list shall have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskFilter {
    /// Those in this state.
    pub state: Option<TaskState>,
    /// Those of this type, such as `vm:create`.
    pub kind: Option<String>,
    /// Those of this worker.
    pub worker_id: Option<WorkerId>,
}

impl Store {
    /// Adds a task that is all there is of what it does.
    ///
    /// # Errors
    /// [`StoreError::Busy`], [`StoreError::IdempotencyMismatch`] or [`StoreError::Database`].
    pub async fn create_task(
        &self,
        task: &Task,
        key: Option<&Idempotency>,
    ) -> Result<Created<Task>, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let id = task.id.to_string();
            if let Some(first) = idempotency::take(&mut tx, key, &id, task.created_at).await? {
                let first = first.parse().map_err(|_| StoreError::not_found("task", first))?;
                return lock(&mut tx, first).await.map(Created::Existing);
            }
            refuse_if_full(&mut tx, self.max_queued).await?;
            insert(&mut tx, task).await?;
            task_log::begin(&mut tx, task).await?;
            tx.commit().await?;
            Ok(Created::New(task.clone()))
        })
        .await
    }

    /// One task.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn task(&self, id: TaskId) -> Result<Task, StoreError> {
        let row = self
            .first(sqlx::query("SELECT * FROM tasks WHERE id = $1").bind(id.to_string()))
            .await?;
        decode(&row.ok_or_else(|| StoreError::not_found("task", id))?)
    }

    /// Tasks, newest first.
    ///
    /// # Errors
    /// [`StoreError::InvalidCursor`] or [`StoreError::Database`].
    pub async fn tasks(
        &self,
        filter: &TaskFilter,
        page: &PageRequest,
    ) -> Result<Page<Task>, StoreError> {
        let (below, rows) = page::bounds::<TaskId>(page, TaskId::PREFIX)?;
        let found = self
            .all(
                sqlx::query(
                    "SELECT * FROM tasks WHERE id < $1 AND ($3 IS NULL OR state = $3) \
             AND ($4 IS NULL OR kind = $4) AND ($5 IS NULL OR worker_id = $5) \
             ORDER BY id DESC LIMIT $2",
                )
                .bind(below)
                .bind(rows)
                .bind(filter.state.map(TaskState::as_str))
                .bind(&filter.kind)
                .bind(filter.worker_id.map(|id| id.to_string())),
            )
            .await?;
        let tasks = found.iter().map(decode).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(tasks, page::limit(page), |task: &Task| task.id.to_string()))
    }

    /// Cancels a task: at once if it waits and would run a user's command; otherwise its handler
    /// is asked to see to it. One that has ended stays as it ended.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn request_cancel_task(
        &self,
        id: TaskId,
        now: Timestamp,
    ) -> Result<Task, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let task = lock(&mut tx, id).await?;
            cancel(&mut tx, task, now).await?;
            let task = lock(&mut tx, id).await?;
            tx.commit().await?;
            Ok(task)
        })
        .await
    }

    /// The tasks in a worker's hands that somebody wants cancelled.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn cancel_requested(&self, worker_id: WorkerId) -> Result<Vec<TaskId>, StoreError> {
        let rows = self
            .all(
                sqlx::query(
                    "SELECT id FROM tasks WHERE worker_id = $1 AND lease_until IS NOT NULL \
             AND cancel_requested = 1 ORDER BY seq",
                )
                .bind(worker_id.to_string()),
            )
            .await?;
        rows.iter().map(|found| row::parsed(found, "id")).collect()
    }
}

/// Refuses another task when as many wait as may.
pub(crate) async fn refuse_if_full(tx: &mut Tx, most: i64) -> Result<(), StoreError> {
    let counted = sqlx::query(
        "SELECT COUNT(*) AS waiting FROM \
         (SELECT 1 AS one FROM tasks WHERE state = 'queued' LIMIT $1) AS queued",
    )
    .bind(most)
    .fetch_one(&mut **tx)
    .await?;
    let waiting = row::int(&counted, "waiting")?;
    if waiting >= most { Err(StoreError::Busy { waiting }) } else { Ok(()) }
}

/// Adds a task behind all others.
pub(crate) async fn insert(tx: &mut Tx, task: &Task) -> Result<(), StoreError> {
    let counter = "UPDATE counters SET value = value + 1 WHERE name = 'task' RETURNING value";
    let next = sqlx::query(counter).fetch_one(&mut **tx).await?;
    sqlx::query(
        "INSERT INTO tasks (id, seq, kind, kind_json, serial_key, worker_id, state, attempts, \
         cancel_requested, not_before, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, 'queued', 0, 0, 0, $7)",
    )
    .bind(task.id.to_string())
    .bind(row::int(&next, "value")?)
    .bind(task.kind.as_str())
    .bind(row::to_json(&task.kind)?)
    .bind(task.kind.serial_key())
    .bind(task.worker_id.to_string())
    .bind(task.created_at.as_millis())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Reads a task and holds its row until the transaction ends.
pub(crate) async fn lock(tx: &mut Tx, id: TaskId) -> Result<Task, StoreError> {
    let row = sqlx::query("UPDATE tasks SET id = id WHERE id = $1 RETURNING *")
        .bind(id.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    decode(&row.ok_or_else(|| StoreError::not_found("task", id))?)
}

/// Like [`lock`], but only while `claim`, as it was handed out, still holds. The number of
/// attempts tells it from every later claim.
pub(crate) async fn held(tx: &mut Tx, claim: &Task) -> Result<Option<Task>, StoreError> {
    let row = sqlx::query(
        "UPDATE tasks SET id = id WHERE id = $1 AND worker_id = $2 AND attempts = $3 \
         AND state IN ('claimed', 'started') RETURNING *",
    )
    .bind(claim.id.to_string())
    .bind(claim.worker_id.to_string())
    .bind(i64::from(claim.attempts))
    .fetch_optional(&mut **tx)
    .await?;
    row.as_ref().map(decode).transpose()
}

/// The oldest task of a kind and serial key that has not ended.
pub(crate) async fn unfinished(
    tx: &mut Tx,
    kind: &str,
    serial_key: &str,
) -> Result<Option<Task>, StoreError> {
    let row = sqlx::query(
        "SELECT * FROM tasks WHERE serial_key = $1 AND kind = $2 AND finished_at IS NULL \
         ORDER BY seq LIMIT 1",
    )
    .bind(serial_key)
    .bind(kind)
    .fetch_optional(&mut **tx)
    .await?;
    row.as_ref().map(decode).transpose()
}

/// The latest task of a kind and serial key that succeeded.
pub(crate) async fn succeeded(
    tx: &mut Tx,
    kind: &str,
    serial_key: &str,
) -> Result<Option<Task>, StoreError> {
    let row = sqlx::query(
        "SELECT * FROM tasks WHERE serial_key = $1 AND kind = $2 AND state = 'succeeded' \
         ORDER BY seq DESC LIMIT 1",
    )
    .bind(serial_key)
    .bind(kind)
    .fetch_optional(&mut **tx)
    .await?;
    row.as_ref().map(decode).transpose()
}

/// Writes that the guest may from now on have run something.
pub(crate) async fn write_start(tx: &mut Tx, id: TaskId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("UPDATE tasks SET state = 'started', started_at = $2 WHERE id = $1")
        .bind(id.to_string())
        .bind(now.as_millis())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Writes a task's end, and nothing else: its run is the caller's.
pub(crate) async fn write_end(
    tx: &mut Tx,
    id: TaskId,
    state: TaskState,
    fault: Option<&Fault>,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE tasks SET state = $2, fault_json = $3, finished_at = $4, lease_until = NULL \
         WHERE id = $1",
    )
    .bind(id.to_string())
    .bind(state.as_str())
    .bind(fault.map(row::to_json).transpose()?)
    .bind(now.as_millis())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Ends a task, and its run unless that has ended by itself.
pub(crate) async fn end(
    tx: &mut Tx,
    task: &Task,
    state: TaskState,
    fault: Option<&Fault>,
    now: Timestamp,
) -> Result<(), StoreError> {
    write_end(tx, task.id, state, fault, now).await?;
    match RunRef::log_of(task) {
        Some(run) => runs::end_if_open(tx, run, &run_end(task, state, fault, now), now).await,
        None => Ok(()),
    }
}

/// How a run ends whose task ends first.
fn run_end(task: &Task, state: TaskState, fault: Option<&Fault>, now: Timestamp) -> RunState {
    let fault = || {
        fault.cloned().unwrap_or_else(|| {
            Fault::internal(format!(
                "task {} ended as {} without a result",
                task.id,
                state.as_str()
            ))
        })
    };
    match state {
        TaskState::Cancelled => RunState::Cancelled,
        TaskState::Succeeded if RunRef::of(&task.kind).is_none() => task_log::done(task, now),
        TaskState::Interrupted => RunState::Interrupted { fault: fault() },
        _ => RunState::Failed { fault: fault() },
    }
}

/// Cancels a task whose row is held.
pub(crate) async fn cancel(tx: &mut Tx, task: Task, now: Timestamp) -> Result<(), StoreError> {
    if task.state.is_terminal() {
        return Ok(());
    }
    let is_started = task.started_at.is_some();
    if task.state == TaskState::Queued && !is_started && !task.kind.is_idempotent() {
        let fault = Fault::new(Code::Cancelled, "it was cancelled before it started");
        return end(tx, &task, TaskState::Cancelled, Some(&fault), now).await;
    }
    sqlx::query("UPDATE tasks SET cancel_requested = 1 WHERE id = $1")
        .bind(task.id.to_string())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Cancels every task of a serial key that runs a user's command.
pub(crate) async fn cancel_runs_of(
    tx: &mut Tx,
    serial_key: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let rows = sqlx::query(
        "UPDATE tasks SET id = id WHERE serial_key = $1 AND finished_at IS NULL RETURNING *",
    )
    .bind(serial_key)
    .fetch_all(&mut **tx)
    .await?;
    for row in &rows {
        let task = decode(row)?;
        if !task.kind.is_idempotent() {
            cancel(tx, task, now).await?;
        }
    }
    Ok(())
}

pub(crate) fn decode(from: &AnyRow) -> Result<Task, StoreError> {
    Ok(Task {
        id: row::parsed(from, "id")?,
        kind: row::json(from, "kind_json")?,
        worker_id: row::parsed(from, "worker_id")?,
        state: row::parsed(from, "state")?,
        attempts: row::number(from, "attempts")?,
        cancel_requested: row::int(from, "cancel_requested")? != 0,
        fault: row::maybe_json(from, "fault_json")?,
        created_at: row::time(from, "created_at")?,
        started_at: row::maybe_time(from, "started_at")?,
        finished_at: row::maybe_time(from, "finished_at")?,
    })
}
