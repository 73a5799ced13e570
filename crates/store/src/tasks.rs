//! Tasks: the durable truth of what is to be done. Reading, cancelling, and the steps that other
//! rooms of this crate take with a task's row inside their transactions.

use crate::{
    Created, Idempotency, RunRef, Store, StoreError, connect::Engine, idempotency, page, row, runs,
    task_events, task_log, transact::Tx,
};
use aetherium_model::{
    Code, Fault, TaskId, Timestamp, WorkerId,
    page::{Page, PageRequest},
    run::RunState,
    task::{Task, TaskKind, TaskState},
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
    /// Those that were tried as often as allowed, or those that were not.
    pub dead: Option<bool>,
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
            self.enqueue(&mut tx, task).await?;
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
             AND ($6 IS NULL OR dead = $6) ORDER BY id DESC LIMIT $2",
                )
                .bind(below)
                .bind(rows)
                .bind(filter.state.map(TaskState::as_str))
                .bind(&filter.kind)
                .bind(filter.worker_id.map(|id| id.to_string()))
                .bind(filter.dead.map(i64::from)),
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

    /// Has a task that failed done again, with as many tries as a new one.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`] if it cannot be done again, or
    /// [`StoreError::Database`].
    pub async fn requeue_failed(&self, id: TaskId) -> Result<Task, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let task = lock(&mut tx, id).await?;
            task.may_run_again().map_err(|why| StoreError::Conflict {
                detail: format!("{} {id} cannot be done again: {why}", task.kind.as_str()),
                remedy: why.remedy(),
            })?;
            let row = sqlx::query(
                "UPDATE tasks SET state = 'queued', attempts = 0, cancel_requested = 0, dead = 0, \
                 fault_json = NULL, not_before = 0, deadline = NULL, started_at = NULL, \
                 finished_at = NULL WHERE id = $1 RETURNING *",
            )
            .bind(id.to_string())
            .fetch_one(&mut *tx)
            .await?;
            tx.commit().await?;
            decode(&row)
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

/// How a task gets its number: numbers are given in the order in which transactions ask, and those that
/// share a serial key ask one after the other.
const fn insertion(engine: Engine) -> &'static str {
    macro_rules! insert {
        ($next:literal) => {
            concat!(
                "INSERT INTO tasks (id, seq, kind, kind_json, serial_key, worker_id, state, attempts, \
                 cancel_requested, priority, turn, not_before, run_at, deadline, created_at, trace) SELECT $1, ",
                $next,
                ", $2, $3, $4, $5, 'queued', 0, 0, $6, $7, COALESCE($8, 0), $8, $9, $10, $12 \
                 WHERE $11 IS NULL OR (SELECT COUNT(*) FROM \
                 (SELECT 1 AS one FROM tasks WHERE state = 'queued' LIMIT $11) AS waiting) < $11"
            )
        };
    }
    match engine {
        Engine::Sqlite => insert!("(SELECT COALESCE(MAX(seq), 0) + 1 FROM tasks)"),
        Engine::Postgres => insert!("nextval('task_seq')"),
    }
}

impl Store {
    /// Adds a task behind all others, unless as many wait as may.
    pub(crate) async fn enqueue(&self, tx: &mut Tx, task: &Task) -> Result<(), StoreError> {
        let most = self.bound(&mut **tx).await?;
        self.insert(tx, task, most).await
    }

    /// Adds a task behind all others, however many wait.
    pub(crate) async fn enqueue_anyway(&self, tx: &mut Tx, task: &Task) -> Result<(), StoreError> {
        self.insert(tx, task, None).await
    }

    async fn insert(&self, tx: &mut Tx, task: &Task, most: Option<i64>) -> Result<(), StoreError> {
        let inserted = sqlx::query(insertion(self.engine))
            .bind(task.id.to_string())
            .bind(task.kind.as_str())
            .bind(row::to_json(&task.kind)?)
            .bind(task.kind.serial_key())
            .bind(task.worker_id.to_string())
            .bind(task.priority.as_str())
            .bind(task.turn().as_millis())
            .bind(task.run_at.map(Timestamp::as_millis))
            .bind(task.deadline.map(Timestamp::as_millis))
            .bind(task.created_at.as_millis())
            .bind(most)
            .bind(task.trace.map(|trace| trace.to_string()))
            .execute(&mut **tx)
            .await?;
        let full = StoreError::Busy { waiting: self.max_queued };
        if inserted.rows_affected() != 1 {
            return Err(full);
        }
        task_events::queued(tx, task).await
    }
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
    task_events::ended(tx, task, state, fault, now).await?;
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

/// Cancels every task of a serial key that runs what a user wrote: a command, or a preparation's steps.
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
        let prepares = matches!(
            task.kind,
            TaskKind::WorkspaceCreate { .. } | TaskKind::WorkspacePrepare { .. }
        );
        if prepares || !task.kind.is_idempotent() {
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
        priority: row::parsed(from, "priority")?,
        run_at: row::maybe_time(from, "run_at")?,
        deadline: row::maybe_time(from, "deadline")?,
        attempts: row::number(from, "attempts")?,
        cancel_requested: row::int(from, "cancel_requested")? != 0,
        fault: row::maybe_json(from, "fault_json")?,
        trace: row::maybe_parsed(from, "trace")?,
        created_at: row::time(from, "created_at")?,
        started_at: row::maybe_time(from, "started_at")?,
        finished_at: row::maybe_time(from, "finished_at")?,
    })
}
