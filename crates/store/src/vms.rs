//! VMs: a record of each, written by the worker that owns it. What happens to the record of a VM
//! never reaches a workspace or a prompt.

use crate::{
    Store, StoreError,
    event_log::{self, Note},
    idempotency::{self, Created, Idempotency},
    page, quotas, reservations, row, tasks,
    transact::Tx,
};
use aetherium_model::{
    TaskId, Timestamp, VmId, WorkerId, WorkspaceId,
    event::{EventData, EventType, Subject},
    page::{Page, PageRequest},
    project::ProjectId,
    room::Room,
    task::Task,
    vm::Vm,
};
use sqlx::any::AnyRow;

/// Which VMs a list shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VmFilter {
    /// Those of this workspace.
    pub workspace_id: Option<WorkspaceId>,
    /// Those that have not ended.
    pub live_only: bool,
}

impl Store {
    /// Writes a VM that belongs to no workspace, and the task that starts it, and takes what it needs of
    /// its worker.
    ///
    /// # Errors
    /// [`StoreError::Quota`], [`StoreError::NoRoom`], [`StoreError::Busy`],
    /// [`StoreError::IdempotencyMismatch`] or [`StoreError::Database`].
    pub async fn create_vm(
        &self,
        vm: &Vm,
        task: &Task,
        key: Option<&Idempotency>,
    ) -> Result<Created<Vm>, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let id = vm.id.to_string();
            if let Some(first) = idempotency::take(&mut tx, key, &id, vm.created_at).await? {
                return get(&mut tx, &first).await.map(Created::Existing);
            }
            let project = tx.by.project.clone();
            insert(&mut tx, vm, &project, Some(task.id)).await?;
            reservations::take(&mut tx, vm.worker_id, reservations::room_of(vm)).await?;
            self.enqueue(&mut tx, task).await?;
            tx.commit().await?;
            Ok(Created::New(vm.clone()))
        })
        .await
    }

    /// One VM.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn vm(&self, id: VmId) -> Result<Vm, StoreError> {
        let row =
            self.first(sqlx::query("SELECT * FROM vms WHERE id = $1").bind(id.to_string())).await?;
        decode(&row.ok_or_else(|| StoreError::not_found("VM", id))?)
    }

    /// VMs, newest first.
    ///
    /// # Errors
    /// [`StoreError::InvalidCursor`] or [`StoreError::Database`].
    pub async fn vms(&self, filter: VmFilter, page: &PageRequest) -> Result<Page<Vm>, StoreError> {
        let (below, rows) = page::bounds::<VmId>(page, VmId::PREFIX)?;
        let found = self
            .all(
                sqlx::query(
                    "SELECT * FROM vms WHERE id < $1 AND ($3 IS NULL OR workspace_id = $3) \
             AND ($4 = 0 OR ended_at IS NULL) ORDER BY id DESC LIMIT $2",
                )
                .bind(below)
                .bind(rows)
                .bind(filter.workspace_id.map(|id| id.to_string()))
                .bind(i64::from(filter.live_only)),
            )
            .await?;
        let vms = found.iter().map(decode).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(vms, page::limit(page), |vm: &Vm| vm.id.to_string()))
    }

    /// Every VM of a worker that has not ended, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn live_vms(&self, worker_id: WorkerId) -> Result<Vec<Vm>, StoreError> {
        let live = "SELECT * FROM vms WHERE worker_id = $1 AND ended_at IS NULL ORDER BY id";
        let found = self.all(sqlx::query(live).bind(worker_id.to_string())).await?;
        found.iter().map(decode).collect()
    }

    /// Writes where a VM stands, what became known of it (driver, accelerator, transports, address,
    /// timings), and what it is to be, which changes while it runs. Only the worker that owns it may; nothing follows a terminal state, and
    /// with it a workspace has no VM any more.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`] if it has ended or belongs to another
    /// worker, or [`StoreError::Database`].
    pub async fn update_vm(&self, vm: &Vm) -> Result<(), StoreError> {
        self.change(|| async {
            let mut tx = self.begin_fenced().await?;
            // Only its owner writes it, so what is read here holds until the update.
            let before = sqlx::query("SELECT state FROM vms WHERE id = $1")
                .bind(vm.id.to_string())
                .fetch_optional(&mut *tx)
                .await?;
            let before = before.map(|row| row::text(&row, "state")).transpose()?;
            let updated = sqlx::query(
                "UPDATE vms SET state = $3, state_json = $4, driver = $5, accelerator = $6, \
                 agent_transport = $7, timings_json = $8, updated_at = $9, ended_at = $10, \
                 virtio_transport = $11, address = $12, spec_json = $13 \
                 WHERE id = $1 AND worker_id = $2 AND ended_at IS NULL \
                 RETURNING vcpus, memory_mib, disk_mib",
            )
            .bind(vm.id.to_string())
            .bind(vm.worker_id.to_string())
            .bind(vm.state.as_str())
            .bind(row::to_json(&vm.state)?)
            .bind(vm.driver.map(|driver| driver.as_str()))
            .bind(&vm.accelerator)
            .bind(vm.agent_transport.map(|transport| transport.as_str()))
            .bind(vm.timings.as_ref().map(row::to_json).transpose()?)
            .bind(vm.updated_at.as_millis())
            .bind(ended_at(vm))
            .bind(vm.virtio_transport.map(|transport| transport.as_str()))
            .bind(vm.address.map(|address| address.to_string()))
            .bind(row::to_json(&vm.spec)?)
            .fetch_optional(&mut *tx)
            .await?;
            let Some(updated) = updated else {
                let stored = get(&mut tx, &vm.id.to_string()).await?;
                return Err(StoreError::Conflict {
                    detail: format!(
                        "VM {} is {} on worker {} and cannot become {}",
                        vm.id,
                        stored.state.as_str(),
                        stored.worker_id,
                        vm.state.as_str()
                    ),
                    remedy: "leave it: its record is final, or another worker's",
                });
            };
            if before.as_deref() != Some(vm.state.as_str()) {
                event_log::note(&mut tx, noted(vm), vm.updated_at).await?;
            }
            if vm.state.is_terminal() {
                if let Some(id) = vm.workspace_id {
                    crate::workspaces::clear_vm(&mut tx, id, vm.id, vm.updated_at).await?;
                }
                reservations::give_back(&mut tx, vm.worker_id, given(&updated)?).await?;
            }
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Writes the task that ends a VM and removes what it took. Asked again, it returns the task
    /// that is at it or, for a VM that was deleted, the one that was.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn request_vm_delete(&self, id: VmId, task: &Task) -> Result<Task, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let key = id.to_string();
            // Holds the row, so that two requests make one task.
            let row = sqlx::query("UPDATE vms SET id = id WHERE id = $1 RETURNING *")
                .bind(&key)
                .fetch_optional(&mut *tx)
                .await?;
            let vm = decode(&row.ok_or_else(|| StoreError::not_found("VM", id))?)?;
            let kind = task.kind.as_str();
            if let Some(already) = tasks::unfinished(&mut tx, kind, &key).await? {
                return Ok(already);
            }
            if vm.state.is_terminal()
                && let Some(done) = tasks::succeeded(&mut tx, kind, &key).await?
            {
                return Ok(done);
            }
            self.enqueue_anyway(&mut tx, task).await?;
            tx.commit().await?;
            Ok(task.clone())
        })
        .await
    }
}

/// Adds a VM to a project that may have it, made for a task or because a workspace needs it.
pub(crate) async fn insert(
    tx: &mut Tx,
    vm: &Vm,
    project: &ProjectId,
    task_id: Option<TaskId>,
) -> Result<(), StoreError> {
    quotas::admit_vm(tx, project, &vm.spec.resources).await?;
    let room = reservations::room_of(vm);
    sqlx::query(
        "INSERT INTO vms (id, spec_json, worker_id, workspace_id, state, state_json, driver, \
         accelerator, agent_transport, timings_json, created_at, updated_at, ended_at, vcpus, \
         memory_mib, disk_mib, project, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
    )
    .bind(vm.id.to_string())
    .bind(row::to_json(&vm.spec)?)
    .bind(vm.worker_id.to_string())
    .bind(vm.workspace_id.map(|id| id.to_string()))
    .bind(vm.state.as_str())
    .bind(row::to_json(&vm.state)?)
    .bind(vm.driver.map(|driver| driver.as_str()))
    .bind(&vm.accelerator)
    .bind(vm.agent_transport.map(|transport| transport.as_str()))
    .bind(vm.timings.as_ref().map(row::to_json).transpose()?)
    .bind(vm.created_at.as_millis())
    .bind(vm.updated_at.as_millis())
    .bind(ended_at(vm))
    .bind(i64::from(room.vcpus))
    .bind(reservations::mib(room.memory_mib))
    .bind(reservations::mib(room.disk_mib))
    .bind(project.as_str())
    .bind(vm.expires_at.map(Timestamp::as_millis))
    .execute(&mut **tx)
    .await?;
    event_log::note(tx, noted(vm).part_of(task_id), vm.created_at).await
}

/// That a VM came to the state it is in.
pub(crate) fn noted(vm: &Vm) -> Note {
    let data =
        EventData { worker_id: Some(vm.worker_id), ..EventData::because(vm.state.termination()) };
    Note::new(EventType::of_vm(&vm.state), Subject::Vm(vm.id)).within(vm.workspace_id).with(data)
}

/// What a VM was given of its worker's room.
fn given(from: &AnyRow) -> Result<Room, StoreError> {
    Ok(Room {
        vcpus: row::number(from, "vcpus")?,
        memory_mib: row::number(from, "memory_mib")?,
        disk_mib: row::number(from, "disk_mib")?,
        vms: 1,
    })
}

fn ended_at(vm: &Vm) -> Option<i64> {
    vm.state.is_terminal().then_some(vm.updated_at.as_millis())
}

pub(crate) async fn get(tx: &mut Tx, id: &str) -> Result<Vm, StoreError> {
    let row =
        sqlx::query("SELECT * FROM vms WHERE id = $1").bind(id).fetch_optional(&mut **tx).await?;
    decode(&row.ok_or_else(|| StoreError::not_found("VM", id))?)
}

pub(crate) fn decode(from: &AnyRow) -> Result<Vm, StoreError> {
    Ok(Vm {
        id: row::parsed(from, "id")?,
        spec: row::json(from, "spec_json")?,
        worker_id: row::parsed(from, "worker_id")?,
        workspace_id: row::maybe_parsed(from, "workspace_id")?,
        state: row::json(from, "state_json")?,
        driver: row::maybe_word(from, "driver")?,
        accelerator: row::maybe_text(from, "accelerator")?,
        agent_transport: row::maybe_word(from, "agent_transport")?,
        virtio_transport: row::maybe_word(from, "virtio_transport")?,
        address: row::maybe_parsed(from, "address")?,
        timings: row::maybe_json(from, "timings_json")?,
        expires_at: row::maybe_time(from, "expires_at")?,
        created_at: row::time(from, "created_at")?,
        updated_at: row::time(from, "updated_at")?,
    })
}
