//! A prompt accepted by one message to the database.
//!
//! A prompt is a task, a run, an event, and the promise that its workspace takes work. As a transaction
//! that asks one thing after the other it is six messages and their answers, with the workspace's row
//! held meanwhile. PostgreSQL does it in one statement, which is a transaction of its own. SQLite
//! inserts only one thing by a statement, but takes several in one message, within a transaction. Why a
//! prompt was not accepted is for the longer transaction to find out. See docs/decisions/0018.

use crate::{RunRef, Store, StoreError, connect::Engine, event_log::Entry, row, runs};
use aetherium_model::{task::Task, workspace::Prompt};

/// A workspace that takes prompts, of a project that does not bound how many wait.
macro_rules! takes_work {
    () => {
        "id = $1 AND state IN ('creating', 'preparing', 'ready') AND NOT EXISTS (SELECT 1 FROM projects \
         WHERE projects.id = workspaces.project AND max_queued_prompts IS NOT NULL)"
    };
}

macro_rules! there_is_room {
    () => {
        "($12 IS NULL OR (SELECT COUNT(*) FROM \
         (SELECT 1 AS one FROM tasks WHERE state = 'queued' LIMIT $12) AS waiting) < $12)"
    };
}

macro_rules! task {
    ($next:literal) => {
        concat!(
            "INSERT INTO tasks (id, seq, kind, kind_json, serial_key, worker_id, state, attempts, \
             cancel_requested, priority, turn, not_before, run_at, deadline, created_at, trace) \
             SELECT $2, ",
            $next,
            ", $3, $4, $5, $6, 'queued', 0, 0, $7, $8, COALESCE($9, 0), $9, $10, $11, $18 FROM "
        )
    };
}

macro_rules! event {
    () => {
        "INSERT INTO event_log (id, ordinal, at, type, subject_kind, subject_id, workspace_id, task_id, \
         request_id, actor_json, data_json) SELECT $19, $20, $11, $21, $22, $13, $1, id, $23, $24, $25 \
         FROM "
    };
}

macro_rules! run {
    () => {
        "INSERT INTO runs (id, workspace_id, task_id, prompt_json, timeout_ms, state, state_json, \
         last_seq, output_bytes, truncated, created_at, secrets_json, options_json) \
         SELECT $13, $1, id, $14, $15, $16, $17, 0, 0, 0, $11, $26, $27 FROM "
    };
}

/// The workspace's row is held, as in the longer transaction, so that its tasks are numbered in the order
/// in which they become visible, and that nobody begins its deletion meanwhile.
const POSTGRES: &str = concat!(
    "WITH workspace AS (SELECT id FROM workspaces WHERE ",
    takes_work!(),
    " FOR NO KEY UPDATE), task AS (",
    task!("nextval('task_seq')"),
    "workspace WHERE ",
    there_is_room!(),
    " RETURNING id), noted AS (",
    event!(),
    "task) ",
    run!(),
    "task"
);

/// Run and event are of the task, if there is one.
const SQLITE: &str = concat!(
    task!("(SELECT COALESCE(MAX(seq), 0) + 1 FROM tasks)"),
    "workspaces WHERE ",
    takes_work!(),
    " AND ",
    there_is_room!(),
    "; ",
    event!(),
    "tasks WHERE id = $2; ",
    run!(),
    "tasks WHERE id = $2"
);

impl Store {
    /// Writes a new prompt and its task, unless something stands in the way; says whether it did.
    pub(crate) async fn accept_at_once(
        &self,
        prompt: &Prompt,
        task: &Task,
    ) -> Result<bool, StoreError> {
        let most = self.bound(&self.read).await?;
        let (run, workspace) = (RunRef::Prompt(prompt.id), Some(prompt.workspace_id));
        let note = runs::noted(run, &prompt.state, workspace, Some(task.id));
        let Some(note) = note else { return Ok(false) };
        // Nothing was told of this prompt before, so the entry goes behind none.
        let entry = Entry::of(&note, &self.by, prompt.created_at)?;
        let accept = match self.engine {
            Engine::Sqlite => SQLITE,
            Engine::Postgres => POSTGRES,
        };
        self.change(|| async {
            let accept = sqlx::query(accept)
                .bind(prompt.workspace_id.to_string())
                .bind(task.id.to_string())
                .bind(task.kind.as_str())
                .bind(row::to_json(&task.kind)?)
                .bind(task.kind.serial_key())
                .bind(task.worker_id.to_string())
                .bind(task.priority.as_str())
                .bind(task.turn().as_millis())
                .bind(task.run_at.map(|at| at.as_millis()))
                .bind(task.deadline.map(|at| at.as_millis()))
                .bind(task.created_at.as_millis())
                .bind(most)
                .bind(prompt.id.to_string())
                .bind(row::to_json(&prompt.prompt)?)
                .bind(prompt.timeout_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)))
                .bind(prompt.state.as_str())
                .bind(row::to_json(&prompt.state)?)
                .bind(task.trace.map(|trace| trace.to_string()))
                .bind(entry.id.as_str())
                .bind(entry.ordinal)
                .bind(entry.kind)
                .bind(entry.subject_kind)
                .bind(entry.request_id.as_deref())
                .bind(entry.actor_json.as_str())
                .bind(entry.data_json.as_str())
                .bind(row::to_json(&prompt.secrets)?)
                .bind(row::to_json(&prompt.options)?);
            let written = match self.engine {
                Engine::Postgres => accept.execute(&self.write).await?,
                Engine::Sqlite => {
                    let mut tx = self.begin().await?;
                    let written = accept.execute(&mut *tx).await?;
                    tx.commit().await?;
                    written
                }
            };
            Ok(written.rows_affected() > 0)
        })
        .await
    }
}
