//! The client's part for workspaces' disks.

use super::{JSON, READ_TIMEOUT, WorkerClient, parse, refusal, unreachable};
use aetherium_model::{
    Code, Fault, Name, WorkspaceId,
    disk::{GrowDisk, TakeDiskSnapshot, WorkspaceDisk},
    worker::Worker,
};
use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Copying a disk, and checking and growing what is on it.
const DISK_TIMEOUT: Duration = Duration::from_secs(600);
/// What a worker says when it refuses.
const MAX_REFUSAL_BYTES: usize = 1024 * 1024;

/// What is done to a disk.
#[derive(Debug)]
pub(crate) enum DiskVerb {
    Grow(GrowDisk),
    Snapshot(TakeDiskSnapshot),
    Restore(Name),
    RemoveSnapshot(Name),
}

impl WorkerClient {
    /// What a workspace's disk is.
    pub(crate) async fn disk(
        &self,
        worker: &Worker,
        id: WorkspaceId,
    ) -> Result<WorkspaceDisk, Fault> {
        self.read(worker, &path(id, "")).await
    }

    /// Does something to a workspace's disk, and tells what it then is.
    pub(crate) async fn change_disk(
        &self,
        worker: &Worker,
        id: WorkspaceId,
        verb: &DiskVerb,
    ) -> Result<WorkspaceDisk, Fault> {
        let (method, path, body) = match verb {
            DiskVerb::Grow(body) => (Method::POST, path(id, "/grow"), json(body)?),
            DiskVerb::Snapshot(body) => (Method::POST, path(id, "/snapshots"), json(body)?),
            DiskVerb::Restore(name) => {
                (Method::POST, path(id, &format!("/snapshots/{name}/restore")), Bytes::new())
            }
            DiskVerb::RemoveSnapshot(name) => {
                (Method::DELETE, path(id, &format!("/snapshots/{name}")), Bytes::new())
            }
        };
        let mut request = self.request(worker, method, &path, body)?;
        request.headers_mut().insert(header::CONTENT_TYPE, JSON);
        let answer = self.call(worker, request, DISK_TIMEOUT).await?;
        parse(worker, &answer)
    }

    /// Begins an archive of a workspace's disk; what comes of it is in the response's body.
    pub(crate) async fn export_disk(
        &self,
        worker: &Worker,
        id: WorkspaceId,
    ) -> Result<Response<Incoming>, Fault> {
        let request = self.request(worker, Method::GET, &path(id, "/export"), Bytes::new())?;
        let begun = timeout_at(Instant::now() + DISK_TIMEOUT, self.pool.request(request)).await;
        let late = |_| {
            let detail = format!("worker {} began no archive within {DISK_TIMEOUT:?}", worker.id);
            Fault::new(Code::DeadlineExceeded, detail).remedy("read the worker's log")
        };
        let response = begun.map_err(late)?.map_err(|error| unreachable(worker, &error))?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_REFUSAL_BYTES).collect();
        let body = timeout_at(Instant::now() + READ_TIMEOUT, body).await.map_err(late)?;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Err(refusal(worker, parts.status, &body))
    }
}

fn path(id: WorkspaceId, below: &str) -> String {
    format!("/internal/v1/workspaces/{id}/disk{below}")
}

fn json(body: &impl Serialize) -> Result<Bytes, Fault> {
    serde_json::to_vec(body).map(Bytes::from).map_err(Fault::internal)
}
