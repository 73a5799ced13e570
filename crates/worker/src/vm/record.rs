//! A VM's state, kept in step in three places: the actor's memory, the store's row, and the view
//! that others watch.

use super::View;
use crate::host::Host;
use aetherium_agent_client::AgentClient;
use aetherium_model::{
    Fault,
    vm::{Vm, VmEvent, VmState},
};
use std::sync::Arc;
use tokio::sync::watch;

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
        // The actor is the row's only writer, so a write that failed is made good by the next one;
        // after the last one the reconciler finds a row without a VM and ends it.
        if let Err(error) = self.host.queue.update_vm(&self.vm).await {
            tracing::error!(vm = %self.vm.id, %error, "the vm's row could not be written");
        }
        self.view.send_replace(View { state: self.vm.state.clone(), agent });
    }

    /// Why the VM is ending, if it is.
    pub(super) fn termination(&self) -> Option<Fault> {
        self.vm.state.termination().cloned()
    }
}
