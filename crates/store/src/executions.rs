//! Executions: commands in a VM, queued with a task or interactive without one.

use crate::{
    RunRef, Store, StoreError, event_log,
    idempotency::{self, Created, Idempotency},
    page, row, runs,
    transact::Tx,
    vms,
};
use aetherium_model::{
    ExecutionId, VmId,
    page::{Page, PageRequest},
    run::Execution,
    task::Task,
};
use sqlx::any::AnyRow;

impl Store {
    /// Writes an execution and, unless it is interactive, the task that runs it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without such a VM, [`StoreError::Conflict`] if the VM has ended,
    /// [`StoreError::Busy`], [`StoreError::IdempotencyMismatch`] or [`StoreError::Database`].
    pub async fn create_execution(
        &self,
        execution: &Execution,
        task: Option<&Task>,
        key: Option<&Idempotency>,
    ) -> Result<Created<Execution>, StoreError> {
        self.change(|| async {
            let mut tx = match task {
                Some(_) => self.begin().await?,
                None => self.begin_unsynced().await?,
            };
            let id = execution.id.to_string();
            if let Some(first) = idempotency::take(&mut tx, key, &id, execution.created_at).await? {
                return get(&mut tx, &first).await.map(Created::Existing);
            }
            let vm = vms::get(&mut tx, &execution.vm_id.to_string()).await?;
            if vm.state.is_terminal() {
                return Err(StoreError::Conflict {
                    detail: format!("VM {} is {}", vm.id, vm.state.as_str()),
                    remedy: "create another VM",
                });
            }
            if let Some(task) = task {
                self.enqueue(&mut tx, task).await?;
            }
            sqlx::query(
                "INSERT INTO runs (id, vm_id, task_id, command_json, state, state_json, last_seq, \
                 output_bytes, truncated, created_at, started_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, 0, 0, 0, $7, $8)",
            )
            .bind(id)
            .bind(execution.vm_id.to_string())
            .bind(task.map(|task| task.id.to_string()))
            .bind(row::to_json(&execution.command)?)
            .bind(execution.state.as_str())
            .bind(row::to_json(&execution.state)?)
            .bind(execution.created_at.as_millis())
            .bind(execution.started_at.map(aetherium_model::Timestamp::as_millis))
            .execute(&mut *tx)
            .await?;
            let (run, task_id) = (RunRef::Execution(execution.id), task.map(|task| task.id));
            let note = runs::noted(run, &execution.state, None, task_id);
            let note = note.map(|note| note.within_vm(execution.vm_id));
            event_log::note(&mut tx, note, execution.created_at).await?;
            tx.commit().await?;
            Ok(Created::New(execution.clone()))
        })
        .await
    }

    /// One execution.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn execution(&self, id: ExecutionId) -> Result<Execution, StoreError> {
        let row = self
            .first(sqlx::query("SELECT * FROM runs WHERE id = $1").bind(id.to_string()))
            .await?;
        decode(&row.ok_or_else(|| StoreError::not_found("execution", id))?)
    }

    /// The executions in a VM, newest first.
    ///
    /// # Errors
    /// [`StoreError::InvalidCursor`] or [`StoreError::Database`].
    pub async fn executions(
        &self,
        vm_id: VmId,
        page: &PageRequest,
    ) -> Result<Page<Execution>, StoreError> {
        let (below, rows) = page::bounds::<ExecutionId>(page, ExecutionId::PREFIX)?;
        let found = self
            .all(
                sqlx::query(
                    "SELECT * FROM runs WHERE vm_id = $1 AND workspace_id IS NULL AND id < $2 \
             ORDER BY id DESC LIMIT $3",
                )
                .bind(vm_id.to_string())
                .bind(below)
                .bind(rows),
            )
            .await?;
        let executions = found.iter().map(decode).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(executions, page::limit(page), |it: &Execution| it.id.to_string()))
    }
}

async fn get(tx: &mut Tx, id: &str) -> Result<Execution, StoreError> {
    let row =
        sqlx::query("SELECT * FROM runs WHERE id = $1").bind(id).fetch_optional(&mut **tx).await?;
    decode(&row.ok_or_else(|| StoreError::not_found("execution", id))?)
}

fn decode(from: &AnyRow) -> Result<Execution, StoreError> {
    Ok(Execution {
        id: row::parsed(from, "id")?,
        vm_id: row::parsed(from, "vm_id")?,
        command: row::json(from, "command_json")?,
        state: row::json(from, "state_json")?,
        created_at: row::time(from, "created_at")?,
        started_at: row::maybe_time(from, "started_at")?,
        finished_at: row::maybe_time(from, "finished_at")?,
    })
}
