//! A VM's disk, seen from the host: copied while the VM stands still, and cleared of what is free.

use super::actor::Actor;
use crate::WorkerError;
use aetherium_agent_client::{ExecSpec, collect};
use aetherium_image::disk;
use aetherium_model::{Code, Fault, resources::DriverKind};
use std::{fs::File, time::Duration};

/// How long a guest may take to write out what its programs have written.
const SYNC_DEADLINE: Duration = Duration::from_secs(60);
/// What is kept of what `sync` says, in bytes.
const SAID_BYTES: usize = 1024;

impl Actor {
    /// Copies the workspace's disk of the running VM into an empty file. The VM stands still from the
    /// end of its `sync` on, so that the copy has all that its programs had written by then.
    pub(super) async fn copy_disk(&mut self, copy: &File) -> Result<(), Fault> {
        let Some(workspace) = self.record.vm().workspace_id else {
            return Err(Fault::internal("a VM without a workspace was asked for its disk"));
        };
        let place = self.host.layout.workspace_disk(workspace);
        let copy = copy.try_clone().map_err(|error| WorkerError::io(&place, error))?;
        self.sync().await?;
        self.pause().await?;
        let copied = disk::fill(copy, &place).await.map_err(WorkerError::from);
        self.resume().await?;
        Ok(copied?)
    }

    pub(super) async fn sync(&self) -> Result<(), Fault> {
        let Some(agent) = self.machinery.as_ref().map(|it| it.agent.clone()) else {
            return Err(Fault::internal("a running VM without an agent"));
        };
        let synced = async {
            let process = agent.exec(ExecSpec::new(["sync"])).await?;
            collect(process, SAID_BYTES).await.map_err(|failed| failed.error)
        };
        let why = match tokio::time::timeout(SYNC_DEADLINE, synced).await {
            Ok(Ok(output)) if output.exit.status.success() => return Ok(()),
            Ok(Ok(output)) => format!("`sync` ended with {}", output.exit.status),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("`sync` did not end within {SYNC_DEADLINE:?}"),
        };
        let id = self.record.vm().id;
        let detail = format!("{id} did not write out its files: {why}");
        Err(Fault::new(Code::Conflict, detail)
            .remedy(format!("end the VM (aetherium vm delete {id}), then ask again")))
    }

    /// Gives back to the host what a workspace's disk no longer uses, where the VMM does not do so as
    /// the guest frees it: Firecracker's block device knows no discard up to 1.16.
    pub(super) async fn reclaim_disk(&self) {
        let vm = self.record.vm();
        let (Some(workspace), Some(DriverKind::Firecracker)) = (vm.workspace_id, vm.driver) else {
            return;
        };
        let place = self.host.layout.workspace_disk(workspace);
        if let Err(error) = disk::reclaim(&place).await {
            // The disk is as the guest left it, which its next mount sees to.
            tracing::warn!(vm = %vm.id, %workspace, %error, "free blocks stay on the host's disk");
        }
    }
}
