//! For whoever looks after lost workers: the store's methods of the same names, then tells whom it
//! concerns.

use crate::{Queue, Topic, queue::announce_task};
use aetherium_model::{Timestamp, WorkerId, WorkspaceId, task::Task};
use aetherium_store::{Lost, StoreError};
use std::time::Duration;

impl Queue {
    /// See [`Store::declare_gone`](aetherium_store::Store::declare_gone).
    ///
    /// # Errors
    /// The store's.
    pub async fn declare_gone(&self, now: Timestamp) -> Result<Vec<Lost>, StoreError> {
        let lost = self.store().declare_gone(now).await?;
        for Lost { vms, tasks, .. } in &lost {
            vms.iter().for_each(|vm| self.bus().announce(Topic::Vm(*vm)));
            tasks.iter().for_each(|task| announce_task(self.bus(), task));
        }
        Ok(lost)
    }

    /// See [`Store::give_up_on_gone`](aetherium_store::Store::give_up_on_gone).
    ///
    /// # Errors
    /// The store's.
    pub async fn give_up_on_gone(
        &self,
        patience: Duration,
        now: Timestamp,
    ) -> Result<Vec<Task>, StoreError> {
        let ended = self.store().give_up_on_gone(patience, now).await?;
        ended.iter().for_each(|task| announce_task(self.bus(), task));
        Ok(ended)
    }

    /// See [`Store::move_workspace`](aetherium_store::Store::move_workspace).
    ///
    /// # Errors
    /// The store's.
    pub async fn move_workspace(
        &self,
        id: WorkspaceId,
        from: WorkerId,
        to: WorkerId,
    ) -> Result<bool, StoreError> {
        let moved = self.store().move_workspace(id, from, to).await?;
        if moved {
            self.bus().announce(Topic::Workspace(id));
            self.bus().wake(to);
        }
        Ok(moved)
    }
}
