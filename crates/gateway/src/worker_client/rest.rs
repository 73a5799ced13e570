//! Workspaces that are hibernated and woken, and commands in them.

use super::{SNAPSHOT_TIMEOUT, WorkerClient, parse};
use aetherium_model::{
    Fault, WorkspaceId, interactive::Captured, run::Command, worker::Worker, workspace::Workspace,
};
use bytes::Bytes;
use http::{HeaderValue, Method};

/// What can be done to a workspace's VM that leaves the workspace as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Keep its memory, and end it.
    Hibernate,
    /// Have one that runs.
    Wake,
}

impl Rest {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Hibernate => "hibernate",
            Self::Wake => "wake",
        }
    }
}

impl WorkerClient {
    /// Hibernates or wakes a workspace, and returns it as it then is.
    pub(crate) async fn rest(
        &self,
        worker: &Worker,
        id: WorkspaceId,
        how: Rest,
    ) -> Result<Workspace, Fault> {
        let path = format!("/internal/v1/workspaces/{id}/{}", how.as_str());
        let request = self.request(worker, Method::POST, &path, Bytes::new())?;
        // Either way a guest's memory is written or read; a boot and a wait for room take less.
        let answer = self.call(worker, request, SNAPSHOT_TIMEOUT).await?;
        parse(worker, &answer)
    }

    /// Runs a command in a workspace, which is woken for it, and returns what it wrote.
    pub(crate) async fn execute_in_workspace(
        &self,
        worker: &Worker,
        id: WorkspaceId,
        command: &Command,
        request_id: &HeaderValue,
    ) -> Result<Captured, Fault> {
        let path = format!("/internal/v1/workspaces/{id}/execute");
        self.run(worker, &path, SNAPSHOT_TIMEOUT, command, request_id).await
    }
}
