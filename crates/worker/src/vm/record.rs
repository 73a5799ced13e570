//! A VM's state, kept in step in three places: the actor's memory, the store's row, and the view
//! that others watch.

use super::View;
use crate::host::Host;
use aetherium_agent_client::AgentClient;
use aetherium_model::{
    Fault,
    vm::{Vm, VmEvent, VmState},
};
use aetherium_store::StoreError;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// How often the last write of a VM's row is tried, and the pause between.
const LAST_WRITE_TRIES: u32 = 10;
const LAST_WRITE_PAUSE: Duration = Duration::from_secs(1);

/// The actor's own copy of the VM and the means to publish it.
pub(super) struct Record {
    host: Arc<Host>,
    vm: Vm,
    view: watch::Sender<View>,
}

impl Record {
    pub(super) fn new(host: Arc<Host>, vm: Vm) -> (Self, watch::Receiver<View>) {
        let (view, watcher) = watch::channel(View { state: vm.state.clone(), agent: None });
        (Self { host, vm, view }, watcher)
    }

    pub(super) fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Notes facts about the VM with the next change of state.
    pub(super) fn amend(&mut self, amend: impl FnOnce(&mut Vm)) {
        amend(&mut self.vm);
    }

    /// Notes facts about the VM at once.
    pub(super) async fn amend_now(&mut self, amend: impl FnOnce(&mut Vm)) {
        amend(&mut self.vm);
        self.vm.updated_at = self.host.now();
        self.write().await;
    }

    /// Takes an event. One that has no place in the present state changes nothing.
    pub(super) async fn apply(&mut self, event: VmEvent, agent: Option<AgentClient>) {
        let Some(next) = self.vm.state.step(event.clone()) else {
            tracing::debug!(vm = %self.vm.id, state = self.vm.state.as_str(), ?event, "event ignored");
            return;
        };
        tracing::info!(
            vm = %self.vm.id,
            from = self.vm.state.as_str(),
            to = next.as_str(),
            reason = next.termination().map(|fault| fault.code.as_str()),
            "vm state"
        );
        self.publish(next, agent).await;
    }

    async fn publish(&mut self, state: VmState, agent: Option<AgentClient>) {
        self.vm.state = state;
        self.vm.updated_at = self.host.now();
        self.write().await;
        self.view.send_replace(View { state: self.vm.state.clone(), agent });
    }

    /// Writes the row. The actor is its only writer, so a write that failed is made good by the next
    /// one; the last one, which frees the workspace for another VM, is tried for a while. Should that
    /// fail too, the next start of this worker finds a row without a VM and ends it.
    async fn write(&self) {
        let tries = if self.vm.state.is_terminal() { LAST_WRITE_TRIES } else { 1 };
        for tried in 1..=tries {
            let Err(error) = self.host.queue.update_vm(&self.vm).await else { return };
            if let StoreError::Fenced { .. } = error {
                tracing::info!(vm = %self.vm.id, %error, "the vm's row is not this process's any more");
                return;
            }
            tracing::error!(vm = %self.vm.id, %error, tried, "the vm's row could not be written");
            if tried < tries {
                tokio::time::sleep(LAST_WRITE_PAUSE).await;
            }
        }
    }

    /// Why the VM is ending, if it is.
    pub(super) fn termination(&self) -> Option<Fault> {
        self.vm.state.termination().cloned()
    }
}
