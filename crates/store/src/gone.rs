//! What becomes of a worker whose lease ran out, and of what it had.
//!
//! | it had | then |
//! | --- | --- |
//! | VMs that have not ended | they count as ended: the worker ended them itself, or does before anything else once it is back |
//! | tasks with a start mark | interrupted |
//! | tasks in hand without one | they wait, like those that waited |
//! | tasks of VMs alone | failed: there is no VM any more |
//! | logins under way | interrupted |
//! | workspaces with a disk | they stay: nobody else has their disk; their prompts wait, then fail |
//! | workspaces whose disk is not made yet | another worker may have them ([`Store::move_workspace`]) |
//!
//! First the epoch ends, which waits for whatever the worker is just writing; all else comes after that.

use crate::{
    Store, StoreError,
    delivery::write_recovery,
    event_log::{self, Note},
    fence::{next_epoch, with_clock},
    logins, reservations, row, runs, tasks,
    transact::Tx,
    vms, workspaces,
};
use aetherium_model::{
    Code, Fault, TaskId, Timestamp, VmId, WorkerId, WorkspaceId,
    event::{EventType, Subject},
    room::Room,
    run::RunState,
    task::{Loss, Recovery, Task, TaskKind, TaskState, recover},
    vm::VmState,
    workspace::{Workspace, WorkspaceState},
};
use std::time::Duration;

/// How many tasks or workspaces one call deals with at most; the next call goes on.
const AT_ONCE: i64 = 100;

/// A worker that was declared gone, and what ended with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The worker.
    pub worker_id: WorkerId,
    /// Its VMs.
    pub vms: Vec<VmId>,
    /// The tasks that it had in hand or that were for its VMs.
    pub tasks: Vec<Task>,
}

impl Store {
    /// Declares every worker gone whose lease has run out.
    ///
    /// # Errors
    /// [`StoreError::Database`]; what was declared before it stays so.
    pub async fn declare_gone(&self, now: Timestamp) -> Result<Vec<Lost>, StoreError> {
        let lapsed = with_clock!(
            self,
            "SELECT id FROM workers WHERE state IN ('starting', 'active', 'draining') \
             AND lease_until < ",
            ""
        );
        let mut lost = Vec::new();
        for row in self.all(sqlx::query(lapsed)).await? {
            lost.extend(self.declare_one(row::parsed(&row, "id")?, now).await?);
        }
        Ok(lost)
    }

    async fn declare_one(&self, id: WorkerId, now: Timestamp) -> Result<Option<Lost>, StoreError> {
        let declare = with_clock!(
            self,
            "UPDATE workers SET state = 'gone', gone_at = ",
            " WHERE id = $1 AND state IN ('starting', 'active', 'draining') AND lease_until < ",
            ""
        );
        self.change(|| async {
            let mut tx = self.begin().await?;
            next_epoch(&mut tx, id).await?;
            let declared = sqlx::query(declare).bind(id.to_string()).execute(&mut *tx).await?;
            if declared.rows_affected() == 0 {
                // It was heard of meanwhile, and keeps its epoch.
                return Ok(None);
            }
            let note = Note::new(EventType::WorkerGone, Subject::Worker(id));
            event_log::note(&mut tx, note, now).await?;
            let vms = end_vms(&mut tx, id, now).await?;
            let mut ended = recover_tasks(&mut tx, id, now).await?;
            ended.extend(end_vm_tasks(&mut tx, id, now).await?);
            interrupt_interactive(&mut tx, &vms, now).await?;
            logins::interrupt(&mut tx, id, now).await?;
            let reserved = reservations::sum(&mut tx, id).await?;
            reservations::write(&mut tx, id, reserved).await?;
            tx.commit().await?;
            Ok(Some(Lost { worker_id: id, vms, tasks: ended }))
        })
        .await
    }

    /// Workspaces of gone workers that nobody has made a disk for yet, some of them.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn stranded_workspaces(&self) -> Result<Vec<Workspace>, StoreError> {
        let stranded = "SELECT * FROM workspaces WHERE state = 'creating' AND worker_id IN \
                        (SELECT id FROM workers WHERE state = 'gone') ORDER BY id LIMIT $1";
        let rows = self.all(sqlx::query(stranded).bind(AT_ONCE)).await?;
        rows.iter().map(workspaces::decode).collect()
    }

    /// Gives a workspace without a disk to another worker, with its tasks. Returns whether it did: not
    /// if the workspace has changed hands, or has a disk by now.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::NoRoom`] or [`StoreError::Database`].
    pub async fn move_workspace(
        &self,
        id: WorkspaceId,
        from: WorkerId,
        to: WorkerId,
    ) -> Result<bool, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let workspace = workspaces::lock(&mut tx, id).await?;
            if workspace.worker_id != from || workspace.state != WorkspaceState::Creating {
                return Ok(false);
            }
            // Only from one that is gone: another is at it, or will be.
            let gone = "SELECT 1 AS one FROM workers WHERE id = $1 AND state = 'gone'";
            if sqlx::query(gone).bind(from.to_string()).fetch_optional(&mut *tx).await?.is_none() {
                return Ok(false);
            }
            sqlx::query("UPDATE workspaces SET worker_id = $2 WHERE id = $1")
                .bind(id.to_string())
                .bind(to.to_string())
                .execute(&mut *tx)
                .await?;
            let tasks = "UPDATE tasks SET worker_id = $2 WHERE serial_key = $1 \
                         AND state = 'queued' AND worker_id = $3";
            sqlx::query(tasks)
                .bind(id.to_string())
                .bind(to.to_string())
                .bind(from.to_string())
                .execute(&mut *tx)
                .await?;
            let disk = Room::of_workspace(workspace.spec.resources.disk_mib);
            reservations::give_back(&mut tx, from, disk).await?;
            reservations::take(&mut tx, to, disk).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    /// Ends, as failed, tasks that have waited for a gone worker for longer than `patience`, some of
    /// them. What removes something waits on: it is still there. Returns what ended.
    ///
    /// # Errors
    /// [`StoreError::Database`]; what was ended before it stays so.
    pub async fn give_up_on_gone(
        &self,
        patience: Duration,
        now: Timestamp,
    ) -> Result<Vec<Task>, StoreError> {
        let waiting = with_clock!(
            self,
            "SELECT tasks.id AS id FROM tasks JOIN workers ON workers.id = tasks.worker_id \
             WHERE tasks.state = 'queued' AND workers.state = 'gone' AND tasks.created_at < $1 \
             AND tasks.kind NOT IN ('workspace:delete', 'vm:delete') AND workers.gone_at < ",
            " - $2 ORDER BY tasks.seq LIMIT $3"
        );
        let patience_ms = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
        let rows = self
            .all(
                sqlx::query(waiting)
                    .bind(now.as_millis().saturating_sub(patience_ms))
                    .bind(patience_ms)
                    .bind(AT_ONCE),
            )
            .await?;
        let mut ended = Vec::new();
        for row in &rows {
            ended.extend(self.give_up(row::parsed(row, "id")?, patience, now).await?);
        }
        Ok(ended)
    }

    async fn give_up(
        &self,
        id: TaskId,
        patience: Duration,
        now: Timestamp,
    ) -> Result<Option<Task>, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let task = tasks::lock(&mut tx, id).await?;
            if task.state != TaskState::Queued {
                return Ok(None);
            }
            let detail =
                format!("worker {} is gone, and was waited for {patience:?}", task.worker_id);
            let remedy = "bring its machine back, or work in another workspace";
            let fault = Fault::new(Code::WorkerLost, detail).remedy(remedy);
            tasks::end(&mut tx, &task, TaskState::Failed, Some(&fault), now).await?;
            if let TaskKind::WorkspaceCreate { workspace_id } = task.kind {
                let failed = WorkspaceState::Failed { fault };
                workspaces::write_state(&mut tx, workspace_id, &failed, None, now).await?;
            }
            tx.commit().await?;
            Ok(Some(task))
        })
        .await
    }
}

/// Why what a gone worker had has ended.
fn lost(id: WorkerId) -> Fault {
    Fault::new(Code::WorkerLost, format!("worker {id} was not heard of for longer than its lease"))
        .remedy("see whether its machine runs and reaches the database")
}

async fn end_vms(tx: &mut Tx, id: WorkerId, now: Timestamp) -> Result<Vec<VmId>, StoreError> {
    let failed = VmState::Failed { termination: lost(id) };
    let rows = sqlx::query(
        "UPDATE vms SET state = $2, state_json = $3, updated_at = $4, ended_at = $4 \
         WHERE worker_id = $1 AND ended_at IS NULL RETURNING *",
    )
    .bind(id.to_string())
    .bind(failed.as_str())
    .bind(row::to_json(&failed)?)
    .bind(now.as_millis())
    .fetch_all(&mut **tx)
    .await?;
    let without = "UPDATE workspaces SET vm_id = NULL, updated_at = $2 \
                   WHERE worker_id = $1 AND vm_id IS NOT NULL";
    sqlx::query(without).bind(id.to_string()).bind(now.as_millis()).execute(&mut **tx).await?;
    let vms = rows.iter().map(vms::decode).collect::<Result<Vec<_>, _>>()?;
    for vm in &vms {
        event_log::note(tx, vms::noted(vm), now).await?;
    }
    Ok(vms.iter().map(|vm| vm.id).collect())
}

/// Takes a gone worker's tasks out of its hands. Returns those that ended.
async fn recover_tasks(tx: &mut Tx, id: WorkerId, now: Timestamp) -> Result<Vec<Task>, StoreError> {
    let held =
        "UPDATE tasks SET id = id WHERE worker_id = $1 AND lease_until IS NOT NULL RETURNING *";
    let rows = sqlx::query(held).bind(id.to_string()).fetch_all(&mut **tx).await?;
    let mut ended = Vec::new();
    for row in &rows {
        let task = tasks::decode(row)?;
        let verdict = recover(&task, Loss::LetGo);
        let at_once = Timestamp::from_millis(0);
        match write_recovery(tx, &task, verdict, at_once, Some(&lost(id)), now).await? {
            Recovery::Requeue | Recovery::Resume => {}
            Recovery::Interrupt(_) | Recovery::GiveUp(_) | Recovery::Cancel => ended.push(task),
        }
    }
    Ok(ended)
}

/// Ends the tasks that wait for VMs of a gone worker which are no more.
async fn end_vm_tasks(tx: &mut Tx, id: WorkerId, now: Timestamp) -> Result<Vec<Task>, StoreError> {
    let waiting = "UPDATE tasks SET id = id WHERE worker_id = $1 AND state = 'queued' \
                   AND kind IN ('vm:create', 'vm:execute') RETURNING *";
    let rows = sqlx::query(waiting).bind(id.to_string()).fetch_all(&mut **tx).await?;
    let tasks = rows.iter().map(tasks::decode).collect::<Result<Vec<_>, _>>()?;
    for task in &tasks {
        tasks::end(tx, task, TaskState::Failed, Some(&lost(id)), now).await?;
    }
    Ok(tasks)
}

/// Ends what was run in these VMs without a task.
async fn interrupt_interactive(
    tx: &mut Tx,
    vms: &[VmId],
    now: Timestamp,
) -> Result<(), StoreError> {
    for vm in vms {
        let open =
            "SELECT id FROM runs WHERE vm_id = $1 AND finished_at IS NULL AND task_id IS NULL";
        for row in sqlx::query(open).bind(vm.to_string()).fetch_all(&mut **tx).await? {
            let run = runs::decode_ref(&row)?;
            let detail = format!("its worker was lost while {run} ran; it may have run in part");
            let fault = Fault::new(Code::Interrupted, detail)
                .remedy("look at what it did, then run it again if that is wanted");
            runs::end_if_open(tx, run, &RunState::Interrupted { fault }, now).await?;
        }
    }
    Ok(())
}
