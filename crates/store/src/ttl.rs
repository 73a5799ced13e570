//! VMs that live for a given time: until when, and which have outlived it.
//!
//! Once its time is over, a VM's end cannot be put off any more: who finds it expired may end it
//! without looking again.

use crate::{
    Store, StoreError,
    event_log::{self, Note},
    row, vms,
};
use aetherium_model::{
    Timestamp, VmId, WorkerId,
    event::{EventData, EventType, Subject},
    vm::Vm,
};

impl Store {
    /// Lets a VM live until `expires_at`, or as long as it likes.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`] if it has ended or its time is over, or
    /// [`StoreError::Database`].
    pub async fn set_vm_expiry(
        &self,
        id: VmId,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Vm, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let row = sqlx::query(
                "UPDATE vms SET expires_at = $2 WHERE id = $1 AND ended_at IS NULL \
                 AND (expires_at IS NULL OR expires_at > $3) RETURNING *",
            )
            .bind(id.to_string())
            .bind(expires_at.map(Timestamp::as_millis))
            .bind(now.as_millis())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else {
                let vm = vms::get(&mut tx, &id.to_string()).await?;
                return Err(StoreError::Conflict {
                    detail: format!("VM {id} is {}, and its time is over", vm.state.as_str()),
                    remedy: "create another VM",
                });
            };
            let vm = vms::decode(&row)?;
            let data = EventData { expires_at, ..EventData::default() };
            let note = Note::new(EventType::VmTtlSet, Subject::Vm(id)).within(vm.workspace_id);
            event_log::note(&mut tx, note.with(data), now).await?;
            tx.commit().await?;
            Ok(vm)
        })
        .await
    }

    /// The VMs of a worker whose time is over and that have not ended.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn expired_vms(
        &self,
        worker_id: WorkerId,
        now: Timestamp,
    ) -> Result<Vec<(VmId, Timestamp)>, StoreError> {
        let expired = sqlx::query(
            "SELECT id, expires_at FROM vms WHERE worker_id = $1 AND ended_at IS NULL \
             AND expires_at IS NOT NULL AND expires_at <= $2 ORDER BY id",
        )
        .bind(worker_id.to_string())
        .bind(now.as_millis());
        let rows = self.all(expired).await?;
        rows.iter().map(|it| Ok((row::parsed(it, "id")?, row::time(it, "expires_at")?))).collect()
    }
}
