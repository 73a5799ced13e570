//! Hibernating a workspace's VM: its memory is written beside the workspace's disk, and it ends.
//!
//! In this order, so that whatever ends this process in between, either the VM goes on, or its memory
//! and the disk fit each other, or the disk alone is good:
//! 1. the guest writes out its files (`sync`), so that the disk is whole by itself;
//! 2. the directory that is being written to is made, by which a later process knows why the VM
//!    stands still;
//! 3. the VM stands still, and memory, state and manifest are written there, encrypted on the way if it
//!    was given secrets;
//! 4. the directory gets its name: from here on the VM must not go on;
//! 5. the VM is killed.

use super::{actor::Actor, sealed::Seal};
use crate::{hibernation, layout::private_dir, secrets};
use aetherium_model::{
    Code, Fault, WorkspaceId,
    vm::{SnapshotKind, VmEvent, VmState},
};
use aetherium_vmm::{Machine, SnapshotExtent};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// Why a VM was not hibernated, and what has become of it.
pub(super) enum NotHibernated {
    /// It runs as before.
    RunsOn(Fault),
    /// It stands still and cannot go on: it has to be ended.
    Stuck(Fault),
}

impl From<Fault> for NotHibernated {
    fn from(why: Fault) -> Self {
        Self::RunsOn(why)
    }
}

impl Actor {
    /// Hibernates the VM because somebody wants it, unless somebody else uses it.
    pub(super) async fn hibernate_unless_used(&mut self) -> Result<Fault, NotHibernated> {
        let (id, state) = (self.record.vm().id, &self.record.vm().state);
        if *state != VmState::Running {
            let detail = format!("{id} is {} and cannot be hibernated", state.as_str());
            let fault = Fault::new(Code::Conflict, detail);
            return Err(fault.remedy("look at its state, then ask again").into());
        }
        if self.activity.give_up_if_idle(Duration::ZERO).is_none() {
            let detail = format!("{id} is at work: a command runs in it, or somebody is attached");
            let fault = Fault::new(Code::Conflict, detail);
            return Err(fault.remedy("wait for its end, or cancel it; then ask again").into());
        }
        let done = self.hibernate("somebody asked for it").await;
        if let Err(NotHibernated::RunsOn(_)) = done {
            self.activity.take_back();
        }
        done
    }

    /// Keeps the memory of the running VM for its workspace's next one; returns why it ends. Nobody
    /// uses the VM any more.
    pub(super) async fn hibernate(&mut self, why: &str) -> Result<Fault, NotHibernated> {
        let vm = self.record.vm();
        let (id, memory) = (vm.id, vm.spec.resources.memory_mib.get());
        let Some(workspace) = vm.workspace_id else {
            let fault = Fault::new(Code::Conflict, format!("{id} serves no workspace"));
            return Err(fault.remedy("take a snapshot of it: aetherium vm snapshot").into());
        };
        let machine = self.machine()?;
        machine.check_snapshot(SnapshotKind::Full).map_err(Fault::from)?;
        let host = Arc::clone(&self.host);
        let mut seal = match secrets::were_given(&host, id) {
            true => Some(Seal::new(&host, workspace, machine.as_ref(), memory)?),
            false => None,
        };
        let _room = hibernation::promise(&host, id, u64::from(memory) << 20)?;
        self.sync().await?;
        hibernation::sweep_one(&host, workspace);
        let aside = hibernation::aside(&host, workspace, id);
        private_dir(&aside).map_err(Fault::from)?;
        let began = Instant::now();
        let kept = match self.freeze(machine.pause_for_snapshot()).await {
            Ok(()) => self.write_memory(&machine, workspace, &aside, seal.as_mut()).await,
            Err(why) => Err(NotHibernated::RunsOn(why)),
        };
        host.metrics.snapshot(SnapshotKind::Full, began.elapsed(), kept.is_ok());
        if let Err(why) = kept {
            hibernation::sweep_one(&host, workspace);
            return Err(why);
        }
        let detail = format!("{why}; its memory is kept for the workspace's next VM");
        let end = Fault::new(Code::Hibernated, detail);
        self.record.apply(VmEvent::StopRequested(end.clone()), None).await;
        Ok(end)
    }

    /// Writes the memory of the frozen VM and gives it its name. Should that fail, the VM goes on.
    async fn write_memory(
        &mut self,
        machine: &Arc<dyn Machine>,
        workspace: WorkspaceId,
        aside: &Path,
        seal: Option<&mut Seal>,
    ) -> Result<(), NotHibernated> {
        let written = match self.write_snapshot(machine, SnapshotExtent::Full, aside, seal).await {
            Ok(_) => hibernation::complete(&self.host, workspace, self.record.vm().id).await,
            Err(fault) => Err(fault),
        };
        let Err(fault) = written else { return Ok(()) };
        let goes_on = async {
            machine.pause().await?;
            self.note_pause(machine)?;
            self.resume().await
        };
        match goes_on.await {
            Ok(()) => Err(NotHibernated::RunsOn(fault)),
            Err(error) => Err(NotHibernated::Stuck(Fault::new(
                error.code,
                format!("it was to be hibernated, and: {fault}; then it did not go on: {error}"),
            ))),
        }
    }
}
