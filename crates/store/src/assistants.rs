//! What workspaces keep for their assistants: the conversation that the next prompt goes on with, and the
//! credentials that there are for it.

use crate::{
    Store, StoreError, row,
    workspaces::{being_deleted, lock},
};
use aetherium_model::{
    Timestamp, WorkspaceId,
    secret::{SecretKind, SecretName},
    workspace::WorkspaceState,
};

impl Store {
    /// Notes the conversation that a workspace's next prompt goes on with.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Fenced`], [`StoreError::Conflict`] if it is being deleted, or
    /// [`StoreError::Database`].
    pub async fn set_workspace_session(
        &self,
        id: WorkspaceId,
        session: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.change(|| async {
            let mut tx = self.begin_fenced().await?;
            let workspace = lock(&mut tx, id).await?;
            if workspace.state == WorkspaceState::Deleting {
                return Err(being_deleted(&workspace));
            }
            sqlx::query("UPDATE workspaces SET session = $2, updated_at = $3 WHERE id = $1")
                .bind(id.to_string())
                .bind(session)
                .bind(now.as_millis())
                .execute(&mut *tx)
                .await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// The names of the assistants' credentials among the secrets that a workspace may ask for.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn assistant_credentials(
        &self,
        workspace: WorkspaceId,
    ) -> Result<Vec<SecretName>, StoreError> {
        let found = self
            .all(
                sqlx::query(
                    "SELECT DISTINCT name FROM secrets WHERE kind = $2 AND (scope = $1 OR scope = \
                     (SELECT 'project:' || project FROM workspaces WHERE id = $1)) ORDER BY name",
                )
                .bind(workspace.to_string())
                .bind(SecretKind::AssistantCredential.as_str()),
            )
            .await?;
        found.iter().map(|from| row::parsed(from, "name")).collect()
    }
}
