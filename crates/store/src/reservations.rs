//! Reservations: what is promised of a worker's room, in columns of its row.
//!
//! A VM has its processors, memory and place reserved from its row's first transaction to its last, a
//! workspace its disk. One conditional update does both the asking and the taking, so that whoever asks
//! at once cannot be given the same room. The rows of VMs and workspaces are the truth; a sum over them
//! puts right what went wrong ([`Store::recount_reservations`]).
//!
//! The worker's row is the last that a transaction takes, but for the tasks' counter: it is wanted by
//! all that begins and ends there.

use crate::{Store, StoreError, row, transact::Tx, workers};
use aetherium_model::{
    WorkerId,
    room::Room,
    vm::Vm,
    worker::{Admission, WorkerState},
};

impl Store {
    /// Puts right what is reserved of a worker, by its VMs and workspaces. Returns whether it was wrong.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn recount_reservations(&self, id: WorkerId) -> Result<bool, StoreError> {
        self.change(|| async {
            let mut tx = self.begin_unsynced().await?;
            // Holds the row: what is being reserved by now comes into the sums.
            let hold = "UPDATE workers SET id = id WHERE id = $1 RETURNING *";
            let row = sqlx::query(hold).bind(id.to_string()).fetch_optional(&mut *tx).await?;
            let row = row.ok_or_else(|| StoreError::not_found("worker", id))?;
            let (before, now) = (workers::reserved(&row)?, sum(&mut tx, id).await?);
            if before == now {
                return Ok(false);
            }
            write(&mut tx, id, now).await?;
            tx.commit().await?;
            tracing::warn!(worker = %id, %before, %now, "what is reserved was put right");
            Ok(true)
        })
        .await
    }
}

/// Takes `wanted` of a worker's room, or says why it cannot be had. A worker that never registered has
/// no room to count, and takes whatever comes.
pub(crate) async fn take(tx: &mut Tx, id: WorkerId, wanted: Room) -> Result<(), StoreError> {
    let taken = sqlx::query(
        "UPDATE workers SET reserved_vcpus = reserved_vcpus + $2, \
         reserved_memory_mib = reserved_memory_mib + $3, \
         reserved_disk_mib = reserved_disk_mib + $4, vms = vms + $5 \
         WHERE id = $1 AND state = 'active' AND admission = 'open' AND driver IS NOT NULL \
         AND reserved_vcpus + $2 <= allocatable_vcpus \
         AND reserved_memory_mib + $3 <= allocatable_memory_mib \
         AND reserved_disk_mib + $4 <= allocatable_disk_mib AND vms + $5 <= max_vms",
    )
    .bind(id.to_string())
    .bind(i64::from(wanted.vcpus))
    .bind(mib(wanted.memory_mib))
    .bind(mib(wanted.disk_mib))
    .bind(i64::from(wanted.vms))
    .execute(&mut **tx)
    .await?;
    if taken.rows_affected() == 1 {
        return Ok(());
    }
    let select = "SELECT * FROM workers WHERE id = $1";
    let row = sqlx::query(select).bind(id.to_string()).fetch_optional(&mut **tx).await?;
    let Some(worker) = row.as_ref().map(workers::decode).transpose()? else { return Ok(()) };
    let why = match (worker.state, worker.admission) {
        (state, Admission::Open) if state != WorkerState::Active => {
            format!("it is {}", state.as_str())
        }
        (_, Admission::Open) if worker.driver.is_none() => "it has no driver".to_owned(),
        (_, Admission::Open) => {
            format!("of {} there is {} left", worker.allocatable, worker.free())
        }
        (_, admission) => format!("it is {}", admission.as_str()),
    };
    Err(StoreError::NoRoom { worker: id, wanted, why })
}

/// Gives room back.
pub(crate) async fn give_back(tx: &mut Tx, id: WorkerId, room: Room) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE workers SET reserved_vcpus = reserved_vcpus - $2, \
         reserved_memory_mib = reserved_memory_mib - $3, \
         reserved_disk_mib = reserved_disk_mib - $4, vms = vms - $5 WHERE id = $1",
    )
    .bind(id.to_string())
    .bind(i64::from(room.vcpus))
    .bind(mib(room.memory_mib))
    .bind(mib(room.disk_mib))
    .bind(i64::from(room.vms))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Takes one amount in place of another, whether there is room for it or not.
pub(crate) async fn exchange(
    tx: &mut Tx,
    id: WorkerId,
    before: Room,
    after: Room,
) -> Result<(), StoreError> {
    give_back(tx, id, before.less(after)).await?;
    let more = after.less(before);
    let update = "UPDATE workers SET reserved_disk_mib = reserved_disk_mib + $2 WHERE id = $1";
    sqlx::query(update).bind(id.to_string()).bind(mib(more.disk_mib)).execute(&mut **tx).await?;
    Ok(())
}

/// What a worker's rows add up to. Its own row must be held.
pub(crate) async fn sum(tx: &mut Tx, id: WorkerId) -> Result<Room, StoreError> {
    let row = sqlx::query(
        "SELECT CAST(COALESCE(SUM(vcpus), 0) AS BIGINT) AS vcpus, \
         CAST(COALESCE(SUM(memory_mib), 0) AS BIGINT) AS memory_mib, \
         CAST(COALESCE(SUM(disk_mib), 0) AS BIGINT) AS disk_mib, COUNT(*) AS vms \
         FROM vms WHERE worker_id = $1 AND ended_at IS NULL",
    )
    .bind(id.to_string())
    .fetch_one(&mut **tx)
    .await?;
    let disks = "SELECT CAST(COALESCE(SUM(disk_mib), 0) AS BIGINT) AS disk_mib FROM workspaces \
                 WHERE worker_id = $1";
    let disks = sqlx::query(disks).bind(id.to_string()).fetch_one(&mut **tx).await?;
    Ok(Room {
        vcpus: row::number(&row, "vcpus")?,
        memory_mib: row::number(&row, "memory_mib")?,
        disk_mib: row::number::<u64>(&row, "disk_mib")? + row::number::<u64>(&disks, "disk_mib")?,
        vms: row::number(&row, "vms")?,
    })
}

/// Writes what is reserved of a worker, whatever was.
pub(crate) async fn write(tx: &mut Tx, id: WorkerId, reserved: Room) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE workers SET reserved_vcpus = $2, reserved_memory_mib = $3, \
         reserved_disk_mib = $4, vms = $5 WHERE id = $1",
    )
    .bind(id.to_string())
    .bind(i64::from(reserved.vcpus))
    .bind(mib(reserved.memory_mib))
    .bind(mib(reserved.disk_mib))
    .bind(i64::from(reserved.vms))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// What a VM takes of its worker.
pub(crate) const fn room_of(vm: &Vm) -> Room {
    let resources = vm.spec.resources;
    match vm.workspace_id {
        Some(_) => Room::of_workspace_vm(resources),
        None => Room::of_vm(resources),
    }
}

/// A size as the database keeps it.
pub(crate) fn mib(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
