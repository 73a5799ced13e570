//! Pausing and resuming a VM. A paused VM keeps its memory and its place on the host, and no CPU.

use super::{Verb, actor::Actor, start::answer_deadline};
use crate::secrets;
use aetherium_model::{
    Code, Fault,
    vm::{TakeSnapshot, VmEvent, VmState},
};
use aetherium_vmm::{Machine, VmmError};
use std::sync::Arc;

impl Actor {
    /// Does what was asked. Asking for what already is, is done.
    pub(super) async fn perform(&mut self, verb: Verb) -> Result<(), Fault> {
        match (&verb, &self.record.vm().state) {
            (Verb::CopyDisk(copy), VmState::Running) => self.copy_disk(copy).await,
            (Verb::Pause, VmState::Running) => self.pause().await,
            (Verb::Resume, VmState::Paused) => self.resume().await,
            (Verb::Snapshot(wanted), VmState::Paused) => {
                let extent = self.may_snapshot(wanted)?;
                self.snapshot(&wanted.name, extent).await
            }
            (Verb::Snapshot(wanted), VmState::Running) => self.snapshot_running(wanted).await,
            (Verb::Change(change), VmState::Running | VmState::Paused) => {
                self.change(*change).await
            }
            (Verb::Pause, VmState::Paused) | (Verb::Resume, VmState::Running) => Ok(()),
            (verb, state) => {
                let detail = format!(
                    "{} is {} and cannot {}",
                    self.record.vm().id,
                    state.as_str(),
                    verb.as_str()
                );
                Err(Fault::new(Code::Conflict, detail).remedy("look at its state, then ask again"))
            }
        }
    }

    /// Stops the VM for as long as a snapshot takes.
    async fn snapshot_running(&mut self, wanted: &TakeSnapshot) -> Result<(), Fault> {
        let extent = self.may_snapshot(wanted)?;
        let machine = self.machine()?;
        self.freeze(machine.pause_for_snapshot()).await?;
        let taken = self.snapshot(&wanted.name, extent).await;
        if taken.is_err() {
            machine.pause().await?;
            self.note_pause(&machine)?;
        }
        self.resume().await?;
        taken
    }

    pub(super) async fn pause(&mut self) -> Result<(), Fault> {
        let machine = self.machine()?;
        if machine.pause_forgets_written_pages() && machine.footprint().volatile.is_none() {
            // It writes the memory, and throws it away.
            secrets::check_memory_may_be_written(&self.host, self.record.vm().id)?;
        }
        self.freeze(machine.pause()).await?;
        self.note_pause(&machine)
    }

    pub(super) fn machine(&self) -> Result<Arc<dyn Machine>, Fault> {
        let machine = self.machinery.as_ref().map(|it| it.machine.clone());
        machine.ok_or_else(|| Fault::internal("a running VM without a machine"))
    }

    pub(super) async fn freeze(
        &mut self,
        pausing: impl Future<Output = Result<(), VmmError>>,
    ) -> Result<(), Fault> {
        self.record.apply(VmEvent::PauseRequested, None).await;
        match pausing.await {
            Ok(()) => {
                self.record.apply(VmEvent::Frozen, None).await;
                Ok(())
            }
            Err(error) => {
                self.now_running().await;
                Err(error.into())
            }
        }
    }

    /// Lets the VM go on, and waits for its agent: a guest that is not heard of is not running.
    pub(super) async fn resume(&mut self) -> Result<(), Fault> {
        let Some(machinery) = &self.machinery else {
            return Err(Fault::internal("a paused VM without a machine"));
        };
        let (machine, agent) = (machinery.machine.clone(), machinery.agent.clone());
        self.record.apply(VmEvent::ResumeRequested, None).await;
        if let Err(error) = machine.resume().await {
            self.record.apply(VmEvent::Frozen, None).await;
            return Err(error.into());
        }
        agent.forget_connection().await;
        match agent.wait_ready(answer_deadline(machine.footprint().accelerator)).await {
            Ok(_) => {
                self.now_running().await;
                Ok(())
            }
            Err(error) => {
                // Frozen again, so that its state is a true one and it can be tried once more.
                let frozen = machine.pause().await;
                self.record.apply(VmEvent::Frozen, None).await;
                frozen?;
                let detail = format!("the resumed VM's agent does not answer: {error}");
                Err(Fault::new(Code::AgentLost, detail)
                    .remedy("resume it once more, or end it; see the VMM's log"))
            }
        }
    }
}
