//! Workspaces' disks: the worker that holds one is asked directly, without a task, since all of it is
//! done or not done when it answers.

use crate::{
    Error, Gateway,
    extract::{At, Json, SnapshotName, WorkspaceRef},
    routes::workspaces,
    worker_client::DiskVerb,
};
use aetherium_model::{
    disk::{GrowDisk, TakeDiskSnapshot, WorkspaceDisk},
    worker::Worker,
    workspace::Workspace,
};
use axum::{body::Body, extract::State, response::Response};
use bytes::Bytes;
use futures::stream;
use http::header;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::{io, time::Duration};

/// How long a worker may take for the next piece of an archive.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);

/// Get a workspace's disk
///
/// Its size, what it takes of the host, the VM that has it, and its snapshots.
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/disk", tag = "disks",
    params(("workspace" = String, Path, description = "The workspace's id or name.")),
    responses((status = 200, body = WorkspaceDisk))
)]
pub(crate) async fn get(
    State(gateway): State<Gateway>,
    At(given): At<WorkspaceRef>,
) -> Result<axum::Json<WorkspaceDisk>, Error> {
    let (workspace, worker) = find(&gateway, given).await?;
    Ok(axum::Json(gateway.workers().disk(&worker, workspace.id).await?))
}

/// Grow a workspace's disk
///
/// Not while a VM has it. Its files stay; should it fail, the disk is as it was.
#[utoipa::path(
    post, path = "/api/v1/workspaces/{workspace}/disk/grow", tag = "disks", request_body = GrowDisk,
    params(("workspace" = String, Path, description = "The workspace's id or name.")),
    responses((status = 200, body = WorkspaceDisk))
)]
pub(crate) async fn grow(
    State(gateway): State<Gateway>,
    At(given): At<WorkspaceRef>,
    Json(body): Json<GrowDisk>,
) -> Result<axum::Json<WorkspaceDisk>, Error> {
    let (workspace, worker) = find(&gateway, given).await?;
    let now = workspace.spec.resources.disk_mib;
    if body.size_mib <= now {
        let problem =
            format!("{} is not allowed: the disk has {now} MiB and only grows", body.size_mib);
        return Err(Error::field("size_mib", problem));
    }
    change(&gateway, &workspace, &worker, DiskVerb::Grow(body)).await
}

/// Export a workspace's disk
///
/// A tar archive of one sparse file, `disk.ext4`, as `tar -x` unpacks it. A VM that runs stands still
/// while the worker copies the disk; the copy is what is sent.
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/disk/export", tag = "disks",
    params(("workspace" = String, Path, description = "The workspace's id or name.")),
    responses((status = 200, body = Vec<u8>, content_type = "application/x-tar"))
)]
pub(crate) async fn export(
    State(gateway): State<Gateway>,
    At(given): At<WorkspaceRef>,
) -> Result<Response, Error> {
    let (workspace, worker) = find(&gateway, given).await?;
    let answer = gateway.workers().export_disk(&worker, workspace.id).await?;
    let (parts, body) = answer.into_parts();
    let mut response = Response::new(Body::from_stream(stream::unfold(body, next_piece)));
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        if let Some(value) = parts.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    Ok(response)
}

async fn next_piece(mut body: Incoming) -> Option<(io::Result<Bytes>, Incoming)> {
    loop {
        let frame = match tokio::time::timeout(PIECE_TIMEOUT, body.frame()).await {
            Ok(frame) => frame?.map_err(io::Error::other),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the worker sends no more")),
        };
        match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(piece)) => return Some((Ok(piece), body)),
            // Trailers carry nothing of the archive.
            Ok(Err(_)) => {}
            Err(error) => return Some((Err(error), body)),
        }
    }
}

/// Take a snapshot of a workspace's disk
///
/// It stays with the workspace. A VM that runs writes out its files and stands still meanwhile.
#[utoipa::path(
    post, path = "/api/v1/workspaces/{workspace}/disk/snapshots", tag = "disks",
    request_body = TakeDiskSnapshot,
    params(("workspace" = String, Path, description = "The workspace's id or name.")),
    responses((status = 200, body = WorkspaceDisk))
)]
pub(crate) async fn snapshot(
    State(gateway): State<Gateway>,
    At(given): At<WorkspaceRef>,
    Json(body): Json<TakeDiskSnapshot>,
) -> Result<axum::Json<WorkspaceDisk>, Error> {
    let (workspace, worker) = find(&gateway, given).await?;
    change(&gateway, &workspace, &worker, DiskVerb::Snapshot(body)).await
}

/// Remove a snapshot of a workspace's disk
#[utoipa::path(
    delete, path = "/api/v1/workspaces/{workspace}/disk/snapshots/{snapshot}", tag = "disks",
    params(
        ("workspace" = String, Path, description = "The workspace's id or name."),
        ("snapshot" = String, Path, description = "The snapshot's name."),
    ),
    responses((status = 200, body = WorkspaceDisk))
)]
pub(crate) async fn remove_snapshot(
    State(gateway): State<Gateway>,
    At(given): At<WorkspaceRef>,
    At(SnapshotName(name)): At<SnapshotName>,
) -> Result<axum::Json<WorkspaceDisk>, Error> {
    let (workspace, worker) = find(&gateway, given).await?;
    change(&gateway, &workspace, &worker, DiskVerb::RemoveSnapshot(name)).await
}

/// Restore a workspace's disk from a snapshot
///
/// Not while a VM has it. What was written since is lost; the snapshot stays.
#[utoipa::path(
    post, path = "/api/v1/workspaces/{workspace}/disk/snapshots/{snapshot}/restore", tag = "disks",
    params(
        ("workspace" = String, Path, description = "The workspace's id or name."),
        ("snapshot" = String, Path, description = "The snapshot's name."),
    ),
    responses((status = 200, body = WorkspaceDisk))
)]
pub(crate) async fn restore(
    State(gateway): State<Gateway>,
    At(given): At<WorkspaceRef>,
    At(SnapshotName(name)): At<SnapshotName>,
) -> Result<axum::Json<WorkspaceDisk>, Error> {
    let (workspace, worker) = find(&gateway, given).await?;
    change(&gateway, &workspace, &worker, DiskVerb::Restore(name)).await
}

async fn change(
    gateway: &Gateway,
    workspace: &Workspace,
    worker: &Worker,
    verb: DiskVerb,
) -> Result<axum::Json<WorkspaceDisk>, Error> {
    Ok(axum::Json(gateway.workers().change_disk(worker, workspace.id, &verb).await?))
}

/// A workspace and the worker that holds its disk.
async fn find(gateway: &Gateway, given: WorkspaceRef) -> Result<(Workspace, Worker), Error> {
    let workspace = workspaces::find(gateway, given).await?;
    let worker = gateway.store().worker(workspace.worker_id).await?;
    Ok((workspace, worker))
}
