//! The log of a task that runs no user's command: kept as a run's log is, under the task's own id, so
//! that it is bounded, followed and ended in the same way.

use crate::{RunRef, StoreError, row, transact::Tx};
use aetherium_model::{
    Timestamp,
    run::{Exit, ExitReport, RunState},
    task::{Task, TaskKind},
};

impl RunRef {
    /// Where the log of a task is: its run's, or one of its own. None where it has nothing to tell.
    pub const fn log_of(task: &Task) -> Option<Self> {
        match Self::of(&task.kind) {
            Some(run) => Some(run),
            None if has_own(&task.kind) => Some(Self::Task(task.id)),
            None => None,
        }
    }
}

/// Whether tasks of a kind tell how they go, without a run that would.
const fn has_own(kind: &TaskKind) -> bool {
    matches!(
        kind,
        TaskKind::TemplateBuild { .. }
            | TaskKind::WorkspaceCreate { .. }
            | TaskKind::WorkspacePrepare { .. }
    )
}

/// Begins the log of a task that has one of its own.
pub(crate) async fn begin(tx: &mut Tx, task: &Task) -> Result<(), StoreError> {
    if !has_own(&task.kind) {
        return Ok(());
    }
    let id = task.id.to_string();
    sqlx::query(
        "INSERT INTO runs (id, task_id, state, state_json, last_seq, output_bytes, truncated, \
         created_at) VALUES ($1, $1, $2, $3, 0, 0, 0, $4)",
    )
    .bind(id)
    .bind(RunState::Queued.as_str())
    .bind(row::to_json(&RunState::Queued)?)
    .bind(task.created_at.as_millis())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// How the log of a task ends that did what it was to do: as a command does that exits with 0.
pub(crate) fn done(task: &Task, now: Timestamp) -> RunState {
    let exit = Exit::Exited { code: 0 };
    let wall_ms = u64::try_from(now.since(task.created_at).as_millis()).unwrap_or(u64::MAX);
    RunState::Completed {
        exit: ExitReport {
            exit,
            exit_code: exit.shell_code(),
            wall_ms,
            user_ms: 0,
            system_ms: 0,
            max_rss_kib: 0,
        },
    }
}
