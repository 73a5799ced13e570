//! The part of the internal API that works on workspaces' disks.
//!
//! | route | does |
//! | --- | --- |
//! | `GET /internal/v1/workspaces/{id}/disk` | tells its size, its use and its snapshots |
//! | `POST …/disk/grow` | grows it |
//! | `GET …/disk/export` | a tar archive of it, sparse, with its length told |
//! | `POST …/disk/snapshots` | takes a snapshot |
//! | `DELETE …/disk/snapshots/{name}` | removes one |
//! | `POST …/disk/snapshots/{name}/restore` | makes the disk what it was |

use super::Refused;
use crate::{disk, host::Host};
use aetherium_image::DiskArchive;
use aetherium_model::{
    Name, WorkspaceId,
    disk::{GrowDisk, TakeDiskSnapshot, WorkspaceDisk},
};
use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use bytes::Bytes;
use futures::stream;
use std::{
    io::{self, BufWriter, Write},
    sync::Arc,
};
use tokio::sync::mpsc;

/// What is sent of an archive at once, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that are read ahead of whoever takes them.
const PIECES: usize = 4;

pub(super) fn routes() -> Router<Arc<Host>> {
    Router::new()
        .route("/internal/v1/workspaces/{id}/disk", get(describe))
        .route("/internal/v1/workspaces/{id}/disk/grow", post(grow))
        .route("/internal/v1/workspaces/{id}/disk/export", get(export))
        .route("/internal/v1/workspaces/{id}/disk/snapshots", post(snapshot))
        .route("/internal/v1/workspaces/{id}/disk/snapshots/{name}", delete(remove_snapshot))
        .route("/internal/v1/workspaces/{id}/disk/snapshots/{name}/restore", post(restore))
}

type Answer = Result<Json<WorkspaceDisk>, Refused>;

async fn describe(State(host): State<Arc<Host>>, Path(id): Path<WorkspaceId>) -> Answer {
    Ok(Json(disk::describe(&host, id).await?))
}

async fn grow(
    State(host): State<Arc<Host>>,
    Path(id): Path<WorkspaceId>,
    Json(body): Json<GrowDisk>,
) -> Answer {
    Ok(Json(disk::grow(&host, id, body.size_mib).await?))
}

async fn snapshot(
    State(host): State<Arc<Host>>,
    Path(id): Path<WorkspaceId>,
    Json(body): Json<TakeDiskSnapshot>,
) -> Answer {
    Ok(Json(disk::snapshot(&host, id, &body.name).await?))
}

async fn remove_snapshot(
    State(host): State<Arc<Host>>,
    Path((id, name)): Path<(WorkspaceId, Name)>,
) -> Answer {
    Ok(Json(disk::remove_snapshot(&host, id, &name).await?))
}

async fn restore(
    State(host): State<Arc<Host>>,
    Path((id, name)): Path<(WorkspaceId, Name)>,
) -> Answer {
    Ok(Json(disk::restore(&host, id, &name).await?))
}

async fn export(
    State(host): State<Arc<Host>>,
    Path(id): Path<WorkspaceId>,
) -> Result<Response, Refused> {
    let archive = disk::export(&host, id).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/x-tar".to_owned()),
        (header::CONTENT_LENGTH, archive.bytes().to_string()),
    ];
    Ok((headers, body_of(archive)).into_response())
}

/// The archive, read as it is taken. Its reader ends with the body, however that ends.
fn body_of(archive: DiskArchive) -> Body {
    let (pieces, taken) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut out = BufWriter::with_capacity(PIECE_BYTES, Pieces(pieces.clone()));
        if let Err(error) = archive.write_to(&mut out) {
            // Whoever reads must not take what came for the whole; if nobody reads, nobody minds.
            let _ = pieces.blocking_send(Err(error));
        }
    });
    Body::from_stream(stream::unfold(taken, async |mut taken| {
        taken.recv().await.map(|piece: io::Result<Bytes>| (piece, taken))
    }))
}

/// Passes on what is written, piece by piece, and fails once nobody takes it.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.0.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
