//! Taking a snapshot of a VM.
//!
//! Whether it can be taken is asked before the guest is stopped. A workspace's VM has its workspace's
//! disk, which goes on: only one that stays paused is snapshotted, and its disk is not copied.

use super::{
    actor::Actor,
    base,
    sealed::Seal,
    snapshot::{Devices, MANIFEST, OVERLAY, Snapshot, SnapshotRecord, disks, ground, holes},
};
use crate::{
    WorkerError,
    digest::Holes,
    journal::Journal,
    layout::{private_dir, replace_file},
    secrets,
};
use aetherium_image::Holder;
use aetherium_model::{
    Code, Fault, Name,
    vm::{SnapshotKind, TakeSnapshot, Vm, VmState},
};
use aetherium_vmm::{
    AgentAddress, FileDigest, Machine, SNAPSHOT_FORMAT, SnapshotBase, SnapshotContent,
    SnapshotExtent, SnapshotFiles, SnapshotManifest,
};
use std::{fs, path::Path, sync::Arc, time::Instant};

impl Actor {
    /// What the snapshot will hold, or why none can be taken. Nothing is stopped for that.
    pub(super) fn may_snapshot(&self, wanted: &TakeSnapshot) -> Result<SnapshotExtent, Fault> {
        let vm = self.record.vm();
        let refuse =
            |detail: String, remedy: &str| Err(Fault::new(Code::Conflict, detail).remedy(remedy));
        if vm.workspace_id.is_some() && vm.state != VmState::Paused {
            let detail = format!(
                "{} writes to its workspace's disk, and a snapshot is of use only for as long as \
                 nobody does",
                vm.id
            );
            return refuse(detail, "pause it first, and end it once the snapshot is taken");
        }
        secrets::check_memory_may_be_written(&self.host, vm.id)?;
        let name = &wanted.name;
        if self.host.layout.snapshots().join(name.as_str()).exists() {
            return refuse(format!("there is a snapshot {name} already"), "choose another name");
        }
        match wanted.kind {
            SnapshotKind::Full => Ok(SnapshotExtent::Full),
            SnapshotKind::Diff => {
                let base = self.journal()?.diff_base.known(vm.id)?;
                // Neither may be missing, nor the chain too long for one more.
                Snapshot::open(&self.host, &base.name)?.bases(&self.host)?;
                Ok(SnapshotExtent::Diff { base })
            }
        }
    }

    /// Writes a snapshot of the paused VM.
    pub(super) async fn snapshot(
        &mut self,
        name: &Name,
        extent: SnapshotExtent,
    ) -> Result<(), Fault> {
        let Some(machine) = self.machinery.as_ref().map(|it| it.machine.clone()) else {
            return Err(Fault::internal("a paused VM without a machine"));
        };
        let began = Instant::now();
        let kind = match extent {
            SnapshotExtent::Full => SnapshotKind::Full,
            SnapshotExtent::Diff { .. } => SnapshotKind::Diff,
        };
        let snapshots = self.host.layout.snapshots();
        let place = snapshots.join(name.as_str());
        let aside = snapshots.join(format!(".{name}.{}", self.record.vm().id));
        private_dir(&aside)?;
        let taken = async {
            let memory = self.write_snapshot(&machine, extent, &aside, None).await?;
            let template = base::held(&self.host, self.record.vm())?;
            base::hold_for_snapshot(&self.host, name, &template)?;
            fs::rename(&aside, &place).map_err(|error| WorkerError::io(&place, error))?;
            self.host.digests.moved(&aside, &place);
            let base = SnapshotBase { name: name.clone(), memory };
            self.amend_journal(|journal| journal.diff_base = journal.diff_base.at(base))
        };
        let taken = taken.await;
        self.host.metrics.snapshot(kind, began.elapsed(), taken.is_ok());
        if taken.is_err() {
            // It bears no name, so that nobody will take it for one.
            let _ = fs::remove_dir_all(&aside);
            if let Err(error) = self.host.templates.release(&Holder::Snapshot(name.clone())) {
                tracing::warn!(%error, snapshot = %name, "its template is kept for nothing");
            }
        }
        taken
    }

    /// Writes all of a snapshot into `dir`, the manifest last, and returns what its memory is. With a
    /// `seal` nothing of the guest's memory is there in clear.
    pub(super) async fn write_snapshot(
        &self,
        machine: &Arc<dyn Machine>,
        extent: SnapshotExtent,
        dir: &Path,
        seal: Option<&mut Seal>,
    ) -> Result<FileDigest, Fault> {
        let (host, vm) = (&self.host, self.record.vm());
        let template = base::held(host, vm)?;
        let kind = match extent {
            SnapshotExtent::Full => SnapshotKind::Full,
            SnapshotExtent::Diff { .. } => SnapshotKind::Diff,
        };
        let files = SnapshotFiles::within(dir);
        // Should it fail half way, what was noted before is gone all the same.
        self.amend_journal(|journal| journal.diff_base = journal.diff_base.forgotten())?;
        let sealed = match seal {
            None => {
                machine.snapshot(&files, kind).await?;
                None
            }
            Some(seal) => {
                machine.snapshot(&seal.files(), kind).await?;
                Some(seal.encrypt(files.clone()).await?)
            }
        };
        let overlay = match vm.workspace_id {
            Some(workspace) => host.layout.workspace_disk(workspace),
            None => {
                let (disk, copy) =
                    (host.layout.vm(vm.id).join(super::start::OVERLAY), dir.join(OVERLAY));
                aetherium_image::copy_sparse(&disk, &copy).await.map_err(WorkerError::from)?;
                copy
            }
        };
        let memory = host.digests.of(&files.memory, holes(&extent)).await?;
        let record = SnapshotRecord {
            manifest: SnapshotManifest {
                format: SNAPSHOT_FORMAT,
                extent,
                ground: ground(host, &vm.spec, &template, devices(vm, machine)).await?,
                content: SnapshotContent {
                    memory: memory.clone(),
                    state: host.digests.of(&files.state, Holes::Zeros).await?,
                    disks: disks(host, &template, &overlay).await?,
                },
                created_at: host.now(),
            },
            workspace: vm.workspace_id,
            sealed,
            token: self.journal()?.token,
        };
        let text = serde_json::to_vec_pretty(&record).map_err(WorkerError::Encode)?;
        replace_file(&dir.join(MANIFEST), &text)?;
        Ok(memory)
    }

    /// Notes that the VMM has forgotten which pages were written, where it did.
    pub(super) fn note_pause(&self, machine: &Arc<dyn Machine>) -> Result<(), Fault> {
        if !machine.pause_forgets_written_pages() {
            return Ok(());
        }
        self.amend_journal(|journal| journal.diff_base = journal.diff_base.forgotten())
    }

    fn journal(&self) -> Result<Journal, Fault> {
        let dir = self.host.layout.vm(self.record.vm().id);
        Journal::read(&dir)?.ok_or_else(|| Fault::internal("a VM without a journal"))
    }

    fn amend_journal(&self, amend: impl FnOnce(&mut Journal)) -> Result<(), Fault> {
        let mut journal = self.journal()?;
        amend(&mut journal);
        Ok(journal.write(&self.host.layout)?)
    }
}

/// How a VM that runs is attached.
fn devices(vm: &Vm, machine: &Arc<dyn Machine>) -> Devices {
    let footprint = machine.footprint();
    Devices {
        accelerator: footprint.accelerator,
        virtio_transport: vm.virtio_transport,
        vsock: footprint.agent.iter().any(|it| matches!(it, AgentAddress::Vsock { .. })),
        network: vm.address.is_some(),
    }
}
