//! Logins of assistants: who does them writes each change, readers see the newest.

use crate::{Store, StoreError, page, row, transact::Tx};
use aetherium_model::{
    Code, Fault, LoginId, Timestamp, WorkerId, WorkspaceId,
    login::{Login, LoginState},
    page::{Page, PageRequest},
};
use sqlx::any::AnyRow;

/// Logins that are over and remembered, of each workspace.
const REMEMBERED: i64 = 20;

impl Store {
    /// Writes a login that begins on `worker`, and forgets old ones of its workspace.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without its workspace, [`StoreError::Conflict`] while another one of
    /// the same assistant is under way there, [`StoreError::Fenced`] or [`StoreError::Database`].
    pub async fn create_login(&self, login: &Login, worker: WorkerId) -> Result<(), StoreError> {
        self.change(|| async {
            let mut tx = self.begin_fenced().await?;
            let held = sqlx::query("UPDATE workspaces SET name = name WHERE id = $1")
                .bind(login.workspace_id.to_string())
                .execute(&mut *tx)
                .await?;
            if held.rows_affected() == 0 {
                return Err(StoreError::not_found("workspace", login.workspace_id));
            }
            forget_old(&mut tx, login.workspace_id).await?;
            let inserted = sqlx::query(
                "INSERT INTO logins (id, workspace_id, worker_id, assistant, accepts, state_json, \
                 revision, created_at, updated_at, expires_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
                 ON CONFLICT (workspace_id, assistant) WHERE ended_at IS NULL DO NOTHING",
            )
            .bind(login.id.to_string())
            .bind(login.workspace_id.to_string())
            .bind(worker.to_string())
            .bind(login.assistant.as_str())
            .bind(login.accepts.as_str())
            .bind(row::to_json(&login.state)?)
            .bind(login.revision)
            .bind(login.created_at.as_millis())
            .bind(login.updated_at.as_millis())
            .bind(login.expires_at.as_millis())
            .execute(&mut *tx)
            .await?;
            if inserted.rows_affected() == 0 {
                let detail = format!("a login of {} is under way there already", login.assistant);
                let remedy = "go on with that one, or cancel it first";
                return Err(StoreError::Conflict { detail, remedy });
            }
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Writes where a login stands, and returns it. One that is over stays as it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Fenced`] or [`StoreError::Database`].
    pub async fn set_login_state(
        &self,
        id: LoginId,
        state: &LoginState,
        now: Timestamp,
    ) -> Result<Login, StoreError> {
        self.change(|| async {
            let mut tx = self.begin_fenced().await?;
            write_state(&mut tx, id, state, now).await?;
            let found = sqlx::query("SELECT * FROM logins WHERE id = $1")
                .bind(id.to_string())
                .fetch_optional(&mut *tx)
                .await?;
            let login = decode(&found.ok_or_else(|| StoreError::not_found("login", id))?)?;
            tx.commit().await?;
            Ok(login)
        })
        .await
    }

    /// A login of a workspace.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn login(&self, workspace: WorkspaceId, id: LoginId) -> Result<Login, StoreError> {
        let found = self
            .first(
                sqlx::query("SELECT * FROM logins WHERE id = $1 AND workspace_id = $2")
                    .bind(id.to_string())
                    .bind(workspace.to_string()),
            )
            .await?;
        decode(&found.ok_or_else(|| StoreError::not_found("login", id))?)
    }

    /// A workspace's logins, newest first: those under way, and the last ones that are over.
    ///
    /// # Errors
    /// [`StoreError::InvalidCursor`] or [`StoreError::Database`].
    pub async fn logins(
        &self,
        workspace: WorkspaceId,
        page: &PageRequest,
    ) -> Result<Page<Login>, StoreError> {
        let (below, rows) = page::bounds::<LoginId>(page, LoginId::PREFIX)?;
        let newest =
            "SELECT * FROM logins WHERE workspace_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3";
        let asked = sqlx::query(newest).bind(workspace.to_string()).bind(below).bind(rows);
        let found = self.all(asked).await?;
        let logins = found.iter().map(decode).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(logins, page::limit(page), |it: &Login| it.id.to_string()))
    }

    /// Ends what an earlier process of `worker` had under way: its programs went with it. Returns
    /// whose logins they were.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] or [`StoreError::Database`].
    pub async fn interrupt_logins(
        &self,
        worker: WorkerId,
        now: Timestamp,
    ) -> Result<Vec<WorkspaceId>, StoreError> {
        self.change(|| async {
            let mut tx = self.begin_fenced().await?;
            let workspaces = interrupt(&mut tx, worker, now).await?;
            tx.commit().await?;
            Ok(workspaces)
        })
        .await
    }
}

/// Ends what `worker` has under way.
pub(crate) async fn interrupt(
    tx: &mut Tx,
    worker: WorkerId,
    now: Timestamp,
) -> Result<Vec<WorkspaceId>, StoreError> {
    let under_way = "SELECT id, workspace_id FROM logins WHERE worker_id = $1 AND ended_at IS NULL";
    let rows = sqlx::query(under_way).bind(worker.to_string()).fetch_all(&mut **tx).await?;
    let fault = Fault::new(Code::Interrupted, "its worker's process ended meanwhile")
        .remedy("log in again");
    let state = LoginState::Failed { fault };
    let mut workspaces = Vec::with_capacity(rows.len());
    for found in &rows {
        write_state(tx, row::parsed(found, "id")?, &state, now).await?;
        workspaces.push(row::parsed(found, "workspace_id")?);
    }
    Ok(workspaces)
}

async fn write_state(
    tx: &mut Tx,
    id: LoginId,
    state: &LoginState,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE logins SET state_json = $2, revision = revision + 1, updated_at = $3, ended_at = $4 \
         WHERE id = $1 AND ended_at IS NULL",
    )
    .bind(id.to_string())
    .bind(row::to_json(state)?)
    .bind(now.as_millis())
    .bind(state.is_over().then_some(now.as_millis()))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn forget_old(tx: &mut Tx, workspace: WorkspaceId) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM logins WHERE workspace_id = $1 AND ended_at IS NOT NULL AND id NOT IN \
         (SELECT id FROM logins WHERE workspace_id = $1 ORDER BY id DESC LIMIT $2)",
    )
    .bind(workspace.to_string())
    .bind(REMEMBERED)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn decode(from: &AnyRow) -> Result<Login, StoreError> {
    Ok(Login {
        id: row::parsed(from, "id")?,
        workspace_id: row::parsed(from, "workspace_id")?,
        assistant: row::parsed(from, "assistant")?,
        accepts: row::parsed(from, "accepts")?,
        state: row::json(from, "state_json")?,
        revision: row::int(from, "revision")?,
        created_at: row::time(from, "created_at")?,
        updated_at: row::time(from, "updated_at")?,
        expires_at: row::time(from, "expires_at")?,
    })
}
