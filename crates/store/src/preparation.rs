//! Preparing workspaces: asking for it, and noting how far it is.

use crate::{
    Store, StoreError, row, task_log, tasks,
    transact::Tx,
    workspaces::{being_deleted, lock, write_state},
};
use aetherium_model::{
    Timestamp, WorkspaceId,
    setup::{Preparation, Setup},
    task::{Task, TaskKind},
    workspace::WorkspaceState,
};

/// Which steps of a workspace's preparation are done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Redo {
    /// The first that has changed, or was not done, and all that come after it.
    #[default]
    Changed,
    /// Every one.
    All,
}

impl Store {
    /// Has a workspace prepared by `task`, with another setup where one is given. Asked for nothing more
    /// than what is on its way, it returns the task that does it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`] if it is being deleted, or something else than
    /// what is on its way is asked for, [`StoreError::Busy`] or [`StoreError::Database`].
    pub async fn begin_prepare_workspace(
        &self,
        id: WorkspaceId,
        setup: Option<&Setup>,
        redo: Redo,
        task: &Task,
    ) -> Result<Task, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let mut workspace = lock(&mut tx, id).await?;
            if workspace.state == WorkspaceState::Deleting {
                return Err(being_deleted(&workspace));
            }
            if let Some(under_way) = under_way(&mut tx, id).await? {
                if setup.is_none_or(|it| *it == workspace.setup) && redo == Redo::Changed {
                    return Ok(under_way);
                }
                return Err(StoreError::Conflict {
                    detail: format!(
                        "workspace {id} ({}) is being prepared by {}",
                        workspace.name, under_way.id
                    ),
                    remedy: "wait until that task has ended, or cancel it, and ask again",
                });
            }
            if redo == Redo::All {
                workspace.preparation.steps.clear();
                write(&mut tx, id, &workspace.preparation, task.created_at).await?;
            }
            if let Some(setup) = setup {
                let update = "UPDATE workspaces SET setup_json = $2, updated_at = $3 WHERE id = $1";
                sqlx::query(update)
                    .bind(id.to_string())
                    .bind(row::to_json(setup)?)
                    .bind(task.created_at.as_millis())
                    .execute(&mut *tx)
                    .await?;
            }
            // From now on it takes prompts again, which come after the task. One that is ready stays so until
            // the task begins, for the prompts before it.
            if workspace.state != WorkspaceState::Ready {
                let state = WorkspaceState::Preparing;
                write_state(&mut tx, id, &state, Some(task.id), task.created_at).await?;
            }
            self.enqueue(&mut tx, task).await?;
            task_log::begin(&mut tx, task).await?;
            tx.commit().await?;
            Ok(task.clone())
        })
        .await
    }

    /// Notes how far a workspace's preparation is.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] or [`StoreError::Database`]. Of a workspace that is gone nothing is noted.
    pub async fn set_preparation(
        &self,
        id: WorkspaceId,
        preparation: &Preparation,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.change(|| async {
            let mut tx = self.begin_fenced().await?;
            write(&mut tx, id, preparation, now).await?;
            Ok(tx.commit().await?)
        })
        .await
    }
}

async fn write(
    tx: &mut Tx,
    id: WorkspaceId,
    preparation: &Preparation,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE workspaces SET preparation_json = $2, updated_at = $3 WHERE id = $1")
        .bind(id.to_string())
        .bind(row::to_json(preparation)?)
        .bind(now.as_millis())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The task that makes or prepares a workspace and has not ended.
async fn under_way(tx: &mut Tx, workspace_id: WorkspaceId) -> Result<Option<Task>, StoreError> {
    let key = workspace_id.to_string();
    let (create, prepare) =
        (TaskKind::WorkspaceCreate { workspace_id }, TaskKind::WorkspacePrepare { workspace_id });
    match tasks::unfinished(tx, create.as_str(), &key).await? {
        Some(task) => Ok(Some(task)),
        None => tasks::unfinished(tx, prepare.as_str(), &key).await,
    }
}
