//! Workspaces: what users own. They outlive their VMs; their prompts go with them.

use crate::{
    Store, StoreError,
    event_log::{self, Note},
    idempotency::{self, Created, Idempotency},
    page, quotas, reservations, row, task_log, tasks,
    transact::Tx,
};
use aetherium_model::{
    Name, TaskId, Timestamp, VmId, WorkerId, WorkspaceId,
    event::{EventData, EventType, Subject},
    page::{Page, PageRequest},
    project::ProjectId,
    resources::DiskMib,
    room::Room,
    task::Task,
    vm::Vm,
    workspace::{Hibernation, Lifecycle, Workspace, WorkspaceState},
};
use sqlx::any::AnyRow;

impl Store {
    /// Writes a workspace and the task that makes it ready, and takes its disk's room of its worker.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the name is taken, [`StoreError::Quota`], [`StoreError::NoRoom`], [`StoreError::Busy`],
    /// [`StoreError::IdempotencyMismatch`] or [`StoreError::Database`].
    pub async fn create_workspace(
        &self,
        workspace: &Workspace,
        task: &Task,
        key: Option<&Idempotency>,
    ) -> Result<Created<Workspace>, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let id = workspace.id.to_string();
            if let Some(first) = idempotency::take(&mut tx, key, &id, workspace.created_at).await? {
                return get(&mut tx, &first).await.map(Created::Existing);
            }
            let project = tx.by.project.clone();
            quotas::admit_workspace(&mut tx, &project).await?;
            let inserted = sqlx::query(
                "INSERT INTO workspaces (id, name, ai_assistant, spec_json, worker_id, vm_id, \
                 idle_timeout_s, state, state_json, created_at, updated_at, disk_mib, \
                 placement_json, when_full_json, project, idle_action, secrets_json, environment_json, \
                 setup_json, session) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, \
                 $18, $19, $20) \
                 ON CONFLICT (name) DO NOTHING",
            )
            .bind(id)
            .bind(workspace.name.as_str())
            .bind(workspace.ai_assistant.as_str())
            .bind(row::to_json(&workspace.spec)?)
            .bind(workspace.worker_id.to_string())
            .bind(workspace.vm_id().map(|vm| vm.to_string()))
            .bind(i64::from(workspace.idle_timeout_s))
            .bind(workspace.state.as_str())
            .bind(row::to_json(&workspace.state)?)
            .bind(workspace.created_at.as_millis())
            .bind(workspace.updated_at.as_millis())
            .bind(i64::from(workspace.spec.resources.disk_mib.get()))
            .bind(row::to_json(&workspace.placement)?)
            .bind(workspace.when_full.as_ref().map(row::to_json).transpose()?)
            .bind(project.as_str())
            .bind(workspace.idle_action.as_str())
            .bind(row::to_json(&workspace.secrets)?)
            .bind(workspace.environment.as_ref().map(row::to_json).transpose()?)
            .bind(row::to_json(&workspace.setup)?)
            .bind(workspace.session.as_deref())
            .execute(&mut *tx)
            .await?;
            if inserted.rows_affected() == 0 {
                return Err(StoreError::Conflict {
                    detail: format!("a workspace named {:?} exists", workspace.name.as_str()),
                    remedy: "choose another name, or delete that workspace first",
                });
            }
            let note = noted(workspace.id, &workspace.state).part_of(Some(task.id));
            event_log::note(&mut tx, note, workspace.created_at).await?;
            let disk = Room::of_workspace(workspace.spec.resources.disk_mib);
            reservations::take(&mut tx, workspace.worker_id, disk).await?;
            self.enqueue(&mut tx, task).await?;
            task_log::begin(&mut tx, task).await?;
            tx.commit().await?;
            Ok(Created::New(workspace.clone()))
        })
        .await
    }

    /// One workspace.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn workspace(&self, id: WorkspaceId) -> Result<Workspace, StoreError> {
        let row = self
            .first(sqlx::query("SELECT * FROM workspaces WHERE id = $1").bind(id.to_string()))
            .await?;
        decode(&row.ok_or_else(|| StoreError::not_found("workspace", id))?)
    }

    /// The workspace of a name.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn workspace_by_name(&self, name: &Name) -> Result<Workspace, StoreError> {
        let row = self
            .first(sqlx::query("SELECT * FROM workspaces WHERE name = $1").bind(name.as_str()))
            .await?;
        decode(&row.ok_or_else(|| StoreError::not_found("workspace", name))?)
    }

    /// Workspaces, newest first.
    ///
    /// # Errors
    /// [`StoreError::InvalidCursor`] or [`StoreError::Database`].
    pub async fn workspaces(&self, page: &PageRequest) -> Result<Page<Workspace>, StoreError> {
        let (below, rows) = page::bounds::<WorkspaceId>(page, WorkspaceId::PREFIX)?;
        let found = self
            .all(
                sqlx::query("SELECT * FROM workspaces WHERE id < $1 ORDER BY id DESC LIMIT $2")
                    .bind(below)
                    .bind(rows),
            )
            .await?;
        let workspaces = found.iter().map(decode).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(workspaces, page::limit(page), |it: &Workspace| it.id.to_string()))
    }

    /// Begins to remove a workspace: it takes no more prompts, those that wait are cancelled,
    /// those in a worker's hands are asked to end, and `task` comes after them. Asked again, it
    /// returns the task that already does it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn begin_delete_workspace(
        &self,
        id: WorkspaceId,
        task: &Task,
    ) -> Result<Task, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let key = id.to_string();
            let workspace = lock(&mut tx, id).await?;
            if workspace.state == WorkspaceState::Deleting
                && let Some(already) = tasks::unfinished(&mut tx, task.kind.as_str(), &key).await?
            {
                return Ok(already);
            }
            let state = WorkspaceState::Deleting;
            write_state(&mut tx, id, &state, Some(task.id), task.created_at).await?;
            tasks::cancel_runs_of(&mut tx, &key, task.created_at).await?;
            self.enqueue_anyway(&mut tx, task).await?;
            tx.commit().await?;
            Ok(task.clone())
        })
        .await
    }

    /// Says where a workspace stands. One that is being deleted stays so.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Fenced`], [`StoreError::Conflict`] if it is being deleted, or
    /// [`StoreError::Database`].
    pub async fn set_workspace_state(
        &self,
        id: WorkspaceId,
        state: &WorkspaceState,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.change(|| async {
            let mut tx = self.begin_fenced().await?;
            let workspace = lock(&mut tx, id).await?;
            if workspace.state == WorkspaceState::Deleting && *state != WorkspaceState::Deleting {
                return Err(being_deleted(&workspace));
            }
            write_state(&mut tx, id, state, None, now).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Notes that a workspace's disk has another size, for its next VMs.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`] if it is being deleted, or
    /// [`StoreError::Database`].
    pub async fn set_workspace_disk(
        &self,
        id: WorkspaceId,
        size: DiskMib,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let mut workspace = lock(&mut tx, id).await?;
            if workspace.state == WorkspaceState::Deleting {
                return Err(being_deleted(&workspace));
            }
            let before = Room::of_workspace(workspace.spec.resources.disk_mib);
            workspace.spec.resources.disk_mib = size;
            let update = "UPDATE workspaces SET spec_json = $2, updated_at = $3, disk_mib = $4 \
                          WHERE id = $1";
            sqlx::query(update)
                .bind(id.to_string())
                .bind(row::to_json(&workspace.spec)?)
                .bind(now.as_millis())
                .bind(i64::from(size.get()))
                .execute(&mut *tx)
                .await?;
            // It has grown already, whatever may be promised.
            reservations::exchange(&mut tx, workspace.worker_id, before, Room::of_workspace(size))
                .await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Notes what memory of its last VM a workspace has on its worker, or that it has none. That a
    /// workspace is hibernated is told once it has no VM any more.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] or [`StoreError::Database`]. A workspace that is gone has nothing noted.
    pub async fn set_hibernation(
        &self,
        id: WorkspaceId,
        hibernation: Option<&Hibernation>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.change(|| async {
            let mut tx = self.begin_fenced().await?;
            let update =
                "UPDATE workspaces SET hibernation_json = $2, updated_at = $3 WHERE id = $1";
            sqlx::query(update)
                .bind(id.to_string())
                .bind(hibernation.map(row::to_json).transpose()?)
                .bind(now.as_millis())
                .execute(&mut *tx)
                .await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// The workspaces of a worker that are noted to have the memory of a VM, with it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn hibernations(
        &self,
        worker: WorkerId,
    ) -> Result<Vec<(WorkspaceId, Hibernation)>, StoreError> {
        let noted = "SELECT id, hibernation_json FROM workspaces \
                     WHERE worker_id = $1 AND hibernation_json IS NOT NULL";
        let rows = self.all(sqlx::query(noted).bind(worker.to_string())).await?;
        rows.iter()
            .map(|it| Ok((row::parsed(it, "id")?, row::json(it, "hibernation_json")?)))
            .collect()
    }

    /// Removes a workspace that is being deleted, with its prompts and their output.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`] if nobody asked for its deletion, or
    /// [`StoreError::Database`].
    pub async fn remove_workspace(
        &self,
        id: WorkspaceId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let workspace = lock(&mut tx, id).await?;
            if workspace.state != WorkspaceState::Deleting {
                return Err(StoreError::Conflict {
                    detail: format!("workspace {id} is {}", workspace.state.as_str()),
                    remedy: "begin its deletion first",
                });
            }
            sqlx::query("DELETE FROM workspaces WHERE id = $1")
                .bind(id.to_string())
                .execute(&mut *tx)
                .await?;
            let note = Note::new(EventType::WorkspaceDeleted, Subject::Workspace(id));
            event_log::note(&mut tx, note, now).await?;
            let disk = Room::of_workspace(workspace.spec.resources.disk_mib);
            reservations::give_back(&mut tx, workspace.worker_id, disk).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Writes a new VM, makes it its workspace's, and takes what it needs of its worker, in one
    /// transaction.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without such a workspace, [`StoreError::NoRoom`], [`StoreError::Quota`],
    /// [`StoreError::Fenced`], [`StoreError::Conflict`] if it has
    /// another VM or is being deleted, or [`StoreError::Database`].
    pub async fn insert_workspace_vm(&self, vm: &Vm) -> Result<(), StoreError> {
        let id = vm.workspace_id.ok_or_else(|| StoreError::Conflict {
            detail: format!("VM {} names no workspace", vm.id),
            remedy: "create it as a VM by itself",
        })?;
        self.change(|| async {
            let mut tx = self.begin_fenced().await?;
            let workspace = lock(&mut tx, id).await?;
            if workspace.state == WorkspaceState::Deleting {
                return Err(being_deleted(&workspace));
            }
            if workspace.worker_id != vm.worker_id {
                return Err(StoreError::Conflict {
                    detail: format!("workspace {id} is worker {}'s", workspace.worker_id),
                    remedy: "leave it to that worker",
                });
            }
            if let Some(other) = workspace.vm_id() {
                return Err(StoreError::Conflict {
                    detail: format!("workspace {id} has VM {other}"),
                    remedy: "end that VM first",
                });
            }
            let project = project_of(&mut tx, id).await?;
            crate::vms::insert(&mut tx, vm, &project, None).await?;
            write_vm(&mut tx, id, Some(vm.id), vm.created_at).await?;
            reservations::take(&mut tx, vm.worker_id, reservations::room_of(vm)).await?;
            Ok(tx.commit().await?)
        })
        .await
    }
}

/// Notes that a workspace has no VM any more. Does nothing if it has another by now, or is gone
/// itself.
pub(crate) async fn clear_vm(
    tx: &mut Tx,
    id: WorkspaceId,
    vm_id: VmId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let clear = "UPDATE workspaces SET vm_id = NULL, updated_at = $3 WHERE id = $1 AND vm_id = $2";
    sqlx::query(clear)
        .bind(id.to_string())
        .bind(vm_id.to_string())
        .bind(now.as_millis())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub(crate) fn being_deleted(workspace: &Workspace) -> StoreError {
    StoreError::Conflict {
        detail: format!("workspace {} ({}) is being deleted", workspace.id, workspace.name),
        remedy: "create another workspace",
    }
}

/// Refuses work for a workspace that will do none, and keeps it from changing meanwhile. Returns the
/// project that limits how much of it may wait, if it does.
pub(crate) async fn lock_for_work(
    tx: &mut Tx,
    id: WorkspaceId,
) -> Result<Option<ProjectId>, StoreError> {
    // Told with the row, since most projects have no limit, and each prompt asks.
    let row = sqlx::query(
        "UPDATE workspaces SET name = name WHERE id = $1 RETURNING *, (SELECT projects.id FROM \
         projects WHERE projects.id = workspaces.project AND max_queued_prompts IS NOT NULL) \
         AS limited_by",
    )
    .bind(id.to_string())
    .fetch_optional(&mut **tx)
    .await?;
    let row = row.ok_or_else(|| StoreError::not_found("workspace", id))?;
    let workspace = decode(&row)?;
    match &workspace.state {
        WorkspaceState::Creating | WorkspaceState::Preparing | WorkspaceState::Ready => {
            row::maybe_parsed(&row, "limited_by")
        }
        WorkspaceState::Deleting => Err(being_deleted(&workspace)),
        WorkspaceState::Failed { fault } => Err(StoreError::Conflict {
            detail: format!("workspace {id} ({}) has failed: {fault}", workspace.name),
            remedy: "correct what failed and prepare it again (`aetherium ws retry`), or delete it",
        }),
    }
}

/// Reads a workspace and holds its row until the transaction ends, which an update without effect
/// does in both databases.
pub(crate) async fn lock(tx: &mut Tx, id: WorkspaceId) -> Result<Workspace, StoreError> {
    let row = sqlx::query("UPDATE workspaces SET name = name WHERE id = $1 RETURNING *")
        .bind(id.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    decode(&row.ok_or_else(|| StoreError::not_found("workspace", id))?)
}

async fn get(tx: &mut Tx, id: &str) -> Result<Workspace, StoreError> {
    let row = sqlx::query("SELECT * FROM workspaces WHERE id = $1")
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?;
    decode(&row.ok_or_else(|| StoreError::not_found("workspace", id))?)
}

pub(crate) async fn write_state(
    tx: &mut Tx,
    id: WorkspaceId,
    state: &WorkspaceState,
    task_id: Option<TaskId>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let update = "UPDATE workspaces SET state = $2, state_json = $3, updated_at = $4 WHERE id = $1";
    sqlx::query(update)
        .bind(id.to_string())
        .bind(state.as_str())
        .bind(row::to_json(state)?)
        .bind(now.as_millis())
        .execute(&mut **tx)
        .await?;
    event_log::note(tx, noted(id, state).part_of(task_id), now).await
}

/// That a workspace came to this state.
fn noted(id: WorkspaceId, state: &WorkspaceState) -> Note {
    let fault = match state {
        WorkspaceState::Failed { fault } => Some(fault),
        WorkspaceState::Creating
        | WorkspaceState::Preparing
        | WorkspaceState::Ready
        | WorkspaceState::Deleting => None,
    };
    Note::new(EventType::of_workspace(state), Subject::Workspace(id))
        .with(EventData::because(fault))
}

async fn project_of(tx: &mut Tx, id: WorkspaceId) -> Result<ProjectId, StoreError> {
    let row = sqlx::query("SELECT project FROM workspaces WHERE id = $1")
        .bind(id.to_string())
        .fetch_one(&mut **tx)
        .await?;
    row::parsed(&row, "project")
}

async fn write_vm(
    tx: &mut Tx,
    id: WorkspaceId,
    vm_id: Option<VmId>,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE workspaces SET vm_id = $2, updated_at = $3 WHERE id = $1")
        .bind(id.to_string())
        .bind(vm_id.map(|vm| vm.to_string()))
        .bind(now.as_millis())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub(crate) fn decode(from: &AnyRow) -> Result<Workspace, StoreError> {
    Ok(Workspace {
        id: row::parsed(from, "id")?,
        name: row::parsed(from, "name")?,
        ai_assistant: row::parsed(from, "ai_assistant")?,
        environment: row::maybe_json(from, "environment_json")?,
        setup: row::maybe_json(from, "setup_json")?.unwrap_or_default(),
        preparation: row::maybe_json(from, "preparation_json")?.unwrap_or_default(),
        session: row::maybe_text(from, "session")?,
        spec: row::json(from, "spec_json")?,
        worker_id: row::parsed(from, "worker_id")?,
        lifecycle: lifecycle(from)?,
        secrets: row::maybe_json(from, "secrets_json")?.unwrap_or_default(),
        idle_timeout_s: row::number(from, "idle_timeout_s")?,
        idle_action: row::parsed(from, "idle_action")?,
        placement: row::json(from, "placement_json")?,
        when_full: row::maybe_json(from, "when_full_json")?,
        state: row::json(from, "state_json")?,
        created_at: row::time(from, "created_at")?,
        updated_at: row::time(from, "updated_at")?,
    })
}

/// A VM goes first: what a hibernation has left is spent by the VM that goes on with it, or is of no
/// more use, and is forgotten soon.
fn lifecycle(from: &AnyRow) -> Result<Lifecycle, StoreError> {
    let vm_id = row::maybe_parsed(from, "vm_id")?;
    let hibernation = row::maybe_json(from, "hibernation_json")?;
    Ok(match (vm_id, hibernation) {
        (Some(vm_id), _) => Lifecycle::Active { vm_id },
        (None, Some(hibernation)) => Lifecycle::Hibernated { hibernation },
        (None, None) => Lifecycle::Stopped,
    })
}
