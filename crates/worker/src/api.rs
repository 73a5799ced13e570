//! The worker's internal API: interactive work comes here from a gateway, without the queue.
//!
//! | route | does |
//! | --- | --- |
//! | `POST /internal/v1/vms/{id}/execute` | runs a command, answers with its captured output |
//! | `GET /internal/v1/vms/{id}/exec` | a WebSocket: see `aetherium_model::interactive` |
//! | `GET /internal/v1/vms/{id}/console` | the guest's console, or its tail |
//! | `POST /internal/v1/vms/{id}/pause`, `…/resume` | freezes a VM, or lets it go on |
//! | `POST /internal/v1/vms/{id}/snapshot` | writes a snapshot of a VM |
//! | `PATCH /internal/v1/vms/{id}` | changes what a VM takes of its host |
//! | `GET /internal/v1/vms/{id}/metrics` | what a VM uses |
//! | `…/internal/v1/workspaces/{id}/disk…` | works on a workspace's disk: see [`disks`] |
//! | `POST /internal/v1/workspaces/{id}/hibernate`, `…/wake` | hibernates a workspace's VM, or wakes it |
//! | `…/internal/v1/workspaces/{id}/execute`, `…/exec` | the same in a workspace, which is woken for it |
//! | `GET /internal/v1/templates` | the templates this worker holds |
//! | `GET /internal/v1/templates/{template}` | one, by name, tag or digest |
//! | `DELETE /internal/v1/templates/{template}` | takes its tag away |
//! | `GET /internal/v1/health` | what a check of the driver finds now |
//!
//! It listens on a Unix socket that only its owner may open, without other authentication, and in a
//! fleet over a network too (see `remote.rs`).

mod disks;
mod workspaces;

use crate::{WorkerError, execution, heartbeat, host::Host, vm::Verb};
use aetherium_model::{
    Code, Fault, TemplateRef, VmId,
    finding::Finding,
    interactive::{Captured, MAX_FRAME_BYTES},
    metrics::VmMetrics,
    run::Command,
    template::Template,
    vm::{ChangeVm, TakeSnapshot, Vm},
};
use axum::{
    Json, Router,
    extract::{MatchedPath, Path, Query, Request, State, WebSocketUpgrade},
    http::{StatusCode, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{get, patch, post},
};
use std::{io, os::unix::fs::PermissionsExt as _, sync::Arc};
use tokio::{
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    net::UnixListener,
};
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;

/// The most of a console that one answer carries, in bytes.
const MAX_CONSOLE_BYTES: u64 = 1024 * 1024;

/// Binds the socket, in place of one that an earlier process left.
pub(crate) fn bind(host: &Host) -> Result<UnixListener, WorkerError> {
    let path = host.layout.socket();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(WorkerError::io(&path, error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(|error| WorkerError::io(&path, error))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .map_err(|error| WorkerError::io(&path, error))?;
    Ok(listener)
}

/// Serves until `shutdown`, then lets requests under way finish.
pub(crate) async fn serve(host: Arc<Host>, listener: UnixListener, shutdown: CancellationToken) {
    let path = host.layout.socket();
    let served =
        axum::serve(listener, router(host)).with_graceful_shutdown(shutdown.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the internal API ended");
    }
    let _ = std::fs::remove_file(path);
}

pub(crate) fn router(host: Arc<Host>) -> Router {
    Router::new()
        .route("/internal/v1/vms/{id}", patch(change))
        .route("/internal/v1/vms/{id}/metrics", get(metrics))
        .route("/internal/v1/vms/{id}/execute", post(execute))
        .route("/internal/v1/vms/{id}/exec", get(exec))
        .route("/internal/v1/vms/{id}/console", get(console))
        .route("/internal/v1/vms/{id}/pause", post(pause))
        .route("/internal/v1/vms/{id}/resume", post(resume))
        .route("/internal/v1/vms/{id}/snapshot", post(snapshot))
        .route("/internal/v1/templates", get(templates))
        .route("/internal/v1/templates/{template}", get(template).delete(remove_template))
        .route("/internal/v1/health", get(health))
        .merge(disks::routes())
        .merge(workspaces::routes())
        .layer(from_fn(traced))
        .with_state(host)
}

/// Makes a request a part of its caller's trace and gives its lines in the log the caller's request id.
async fn traced(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let id = headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or("-");
    let route = request.extensions().get::<MatchedPath>().map_or("-", MatchedPath::as_str);
    let span = tracing::info_span!("asked", request_id = id, route, trace_id = Empty);
    let parent = aetherium_telemetry::parent_of(headers);
    aetherium_telemetry::within(span, parent, next.run(request)).await
}

/// A fault as an answer: its JSON, under the status a gateway maps back.
struct Refused(Fault);

impl<E: Into<Fault>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match self.0.code {
            Code::NotFound | Code::VmGone => StatusCode::NOT_FOUND,
            Code::InvalidRequest => StatusCode::UNPROCESSABLE_ENTITY,
            Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::CONFLICT,
        };
        (status, Json(self.0)).into_response()
    }
}

async fn execute(
    State(host): State<Arc<Host>>,
    Path(id): Path<VmId>,
    Json(command): Json<Command>,
) -> Result<Json<Captured>, Refused> {
    Ok(Json(execution::captured(&host, execution::Place::Vm(id), command).await?))
}

async fn exec(
    State(host): State<Arc<Host>>,
    Path(id): Path<VmId>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Refused> {
    // Before the upgrade, so that a VM that is not there is an ordinary answer.
    if host.vms.get(id).is_err() && host.queue.store().vm(id).await?.state.is_terminal() {
        host.vms.get(id)?;
    }
    Ok(upgrade
        .max_frame_size(MAX_FRAME_BYTES)
        .max_message_size(MAX_FRAME_BYTES)
        .on_upgrade(move |socket| execution::interactive(host, execution::Place::Vm(id), socket)))
}

#[derive(serde::Deserialize)]
struct Tail {
    tail_bytes: Option<u64>,
}

async fn console(
    State(host): State<Arc<Host>>,
    Path(id): Path<VmId>,
    Query(tail): Query<Tail>,
) -> Result<Response, Refused> {
    let path = host.layout.vm(id).join("console.log");
    let wanted = tail.tail_bytes.unwrap_or(MAX_CONSOLE_BYTES).min(MAX_CONSOLE_BYTES);
    let bytes = read_tail(&path, wanted).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Fault::new(Code::NotFound, format!("{id} has no console log"))
            .remedy("a console exists once the VM has booted, until its record is removed"),
        _ => WorkerError::io(&path, error).into(),
    })?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], bytes).into_response())
}

async fn read_tail(path: &std::path::Path, wanted: u64) -> io::Result<Vec<u8>> {
    let mut file = tokio::fs::File::open(path).await?;
    let length = file.metadata().await?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(wanted))).await?;
    let mut bytes = Vec::new();
    file.take(wanted).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

async fn pause(State(host): State<Arc<Host>>, Path(id): Path<VmId>) -> Result<Json<Vm>, Refused> {
    perform(&host, id, Verb::Pause).await
}

async fn resume(State(host): State<Arc<Host>>, Path(id): Path<VmId>) -> Result<Json<Vm>, Refused> {
    perform(&host, id, Verb::Resume).await
}

async fn snapshot(
    State(host): State<Arc<Host>>,
    Path(id): Path<VmId>,
    Json(body): Json<TakeSnapshot>,
) -> Result<Json<Vm>, Refused> {
    perform(&host, id, Verb::Snapshot(body)).await
}

async fn change(
    State(host): State<Arc<Host>>,
    Path(id): Path<VmId>,
    Json(body): Json<ChangeVm>,
) -> Result<Json<Vm>, Refused> {
    perform(&host, id, Verb::Change(body)).await
}

async fn metrics(
    State(host): State<Arc<Host>>,
    Path(id): Path<VmId>,
) -> Result<Json<VmMetrics>, Refused> {
    Ok(Json(host.vms.get(id)?.metrics().await?))
}

/// Does it, and answers with the VM as it then is.
async fn perform(host: &Host, id: VmId, verb: Verb) -> Result<Json<Vm>, Refused> {
    host.vms.get(id)?.perform(verb).await?;
    Ok(Json(host.queue.store().vm(id).await?))
}

async fn templates(State(host): State<Arc<Host>>) -> Result<Json<Vec<Template>>, Refused> {
    Ok(Json(host.templates.list().map_err(WorkerError::from)?))
}

async fn template(
    State(host): State<Arc<Host>>,
    Path(wanted): Path<TemplateRef>,
) -> Result<Json<Template>, Refused> {
    Ok(Json(host.templates.get(wanted).map_err(WorkerError::from)?.manifest))
}

async fn remove_template(
    State(host): State<Arc<Host>>,
    Path(wanted): Path<TemplateRef>,
) -> Result<Json<Template>, Refused> {
    let template = host.templates.get(&wanted).map_err(WorkerError::from)?.manifest;
    host.templates.remove(&wanted).map_err(WorkerError::from)?;
    heartbeat::beat(&host).await;
    Ok(Json(template))
}

async fn health(State(host): State<Arc<Host>>) -> Json<Vec<Finding>> {
    Json(host.findings().await)
}
