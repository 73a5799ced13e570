//! Prompts: requests to a workspace's assistant, run in order.

use crate::{
    RunRef, Store, StoreError, event_log,
    idempotency::{self, Created, Idempotency},
    page, quotas, row, runs, tasks,
    transact::Tx,
    workspaces,
};
use aetherium_model::{
    PromptId, Timestamp, WorkspaceId,
    page::{Page, PageRequest},
    task::Task,
    workspace::Prompt,
};
use sqlx::any::AnyRow;

impl Store {
    /// Writes a prompt and the task that runs it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without such a workspace, [`StoreError::Conflict`] if it is being
    /// deleted or could not be made, [`StoreError::Quota`], [`StoreError::Busy`], [`StoreError::IdempotencyMismatch`] or
    /// [`StoreError::Database`].
    pub async fn create_prompt(
        &self,
        prompt: &Prompt,
        task: &Task,
        key: Option<&Idempotency>,
    ) -> Result<Created<Prompt>, StoreError> {
        // Who brings a key may have brought it before.
        if key.is_none() && self.accept_at_once(prompt, task).await? {
            return Ok(Created::New(prompt.clone()));
        }
        self.change(|| async {
            let mut tx = self.begin().await?;
            let id = prompt.id.to_string();
            if let Some(first) = idempotency::take(&mut tx, key, &id, prompt.created_at).await? {
                return get(&mut tx, &first).await.map(Created::Existing);
            }
            let limited_by = workspaces::lock_for_work(&mut tx, prompt.workspace_id).await?;
            if let Some(project) = limited_by {
                quotas::admit_prompt(&mut tx, &project).await?;
            }
            self.enqueue(&mut tx, task).await?;
            sqlx::query(
                "INSERT INTO runs (id, workspace_id, task_id, prompt_json, timeout_ms, vm_id, state, \
                 state_json, last_seq, output_bytes, truncated, created_at, secrets_json, options_json) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0, 0, $9, $10, $11)",
            )
            .bind(id)
            .bind(prompt.workspace_id.to_string())
            .bind(prompt.task_id.to_string())
            .bind(row::to_json(&prompt.prompt)?)
            .bind(prompt.timeout_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)))
            .bind(prompt.vm_id.map(|vm| vm.to_string()))
            .bind(prompt.state.as_str())
            .bind(row::to_json(&prompt.state)?)
            .bind(prompt.created_at.as_millis())
            .bind(row::to_json(&prompt.secrets)?)
            .bind(row::to_json(&prompt.options)?)
            .execute(&mut *tx)
            .await?;
            let (run, workspace) = (RunRef::Prompt(prompt.id), Some(prompt.workspace_id));
            let note = runs::noted(run, &prompt.state, workspace, Some(task.id));
            event_log::note(&mut tx, note, prompt.created_at).await?;
            tx.commit().await?;
            Ok(Created::New(prompt.clone()))
        })
        .await
    }

    /// One prompt.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn prompt(&self, id: PromptId) -> Result<Prompt, StoreError> {
        let row = self
            .first(sqlx::query("SELECT * FROM runs WHERE id = $1").bind(id.to_string()))
            .await?;
        decode(&row.ok_or_else(|| StoreError::not_found("prompt", id))?)
    }

    /// The prompts of a workspace, newest first.
    ///
    /// # Errors
    /// [`StoreError::InvalidCursor`] or [`StoreError::Database`].
    pub async fn prompts(
        &self,
        workspace_id: WorkspaceId,
        page: &PageRequest,
    ) -> Result<Page<Prompt>, StoreError> {
        let (below, rows) = page::bounds::<PromptId>(page, PromptId::PREFIX)?;
        let found = self.all(sqlx::query(
            "SELECT * FROM runs WHERE workspace_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
        )
        .bind(workspace_id.to_string())
        .bind(below)
        .bind(rows)).await?;
        let prompts = found.iter().map(decode).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(prompts, page::limit(page), |it: &Prompt| it.id.to_string()))
    }

    /// Cancels a prompt: at once if it waits; if a worker has it, the worker is asked to. One that
    /// has ended stays as it ended.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn cancel_prompt(&self, id: PromptId, now: Timestamp) -> Result<Prompt, StoreError> {
        let task_id = self.task_of(RunRef::Prompt(id)).await?;
        self.change(|| async {
            let mut tx = self.begin().await?;
            if let Some(task_id) = task_id {
                let task = tasks::lock(&mut tx, task_id).await?;
                tasks::cancel(&mut tx, task, now).await?;
            }
            let prompt = get(&mut tx, &id.to_string()).await?;
            tx.commit().await?;
            Ok(prompt)
        })
        .await
    }
}

async fn get(tx: &mut Tx, id: &str) -> Result<Prompt, StoreError> {
    let row =
        sqlx::query("SELECT * FROM runs WHERE id = $1").bind(id).fetch_optional(&mut **tx).await?;
    decode(&row.ok_or_else(|| StoreError::not_found("prompt", id))?)
}

fn decode(from: &AnyRow) -> Result<Prompt, StoreError> {
    Ok(Prompt {
        id: row::parsed(from, "id")?,
        workspace_id: row::parsed(from, "workspace_id")?,
        task_id: row::parsed(from, "task_id")?,
        prompt: row::json(from, "prompt_json")?,
        secrets: row::maybe_json(from, "secrets_json")?.unwrap_or_default(),
        timeout_ms: row::maybe_number(from, "timeout_ms")?,
        options: row::maybe_json(from, "options_json")?.unwrap_or_default(),
        vm_id: row::maybe_parsed(from, "vm_id")?,
        state: row::json(from, "state_json")?,
        created_at: row::time(from, "created_at")?,
        started_at: row::maybe_time(from, "started_at")?,
        finished_at: row::maybe_time(from, "finished_at")?,
    })
}
