//! Preparing workspaces again, and running commands in them.

use crate::{
    Error, Gateway,
    api::{Execute, PrepareWorkspace},
    auth::Acting,
    edge::RequestId,
    extract::{At, Json, WorkspaceRef},
    fleet,
    routes::workspaces,
    tunnel,
};
use aetherium_model::{
    interactive::Captured,
    task::{Task, TaskKind},
};
use aetherium_store::Redo;
use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;

/// Prepare a workspace
///
/// Does what its setup asks for and has not been done: the first step that has changed or failed, and
/// those after it; all of them with `force`. Prompts that are sent meanwhile wait. It is how a workspace
/// that has failed is tried again. Asked for nothing more than what is on its way, answers with that task.
#[utoipa::path(
    post, path = "/api/v1/workspaces/{workspace}/prepare", tag = "workspaces",
    request_body = PrepareWorkspace,
    params(("workspace" = String, Path, description = "The workspace's id or name.")),
    responses((status = 202, body = Task))
)]
pub(crate) async fn prepare(
    Acting(gateway): Acting,
    At(given): At<WorkspaceRef>,
    Json(body): Json<PrepareWorkspace>,
) -> Result<(StatusCode, axum::Json<Task>), Error> {
    let workspace = workspaces::find(&gateway, given).await?;
    let redo = if body.force { Redo::All } else { Redo::Changed };
    let kind = TaskKind::WorkspacePrepare { workspace_id: workspace.id };
    let task = fleet::task(workspace.worker_id, kind);
    let setup = body.setup.as_ref();
    let task = gateway.queue().begin_prepare_workspace(workspace.id, setup, redo, &task).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(task)))
}

/// Run a command in a workspace
///
/// Wakes it if it sleeps, runs the command as its prompts are run (their user, place and variables,
/// where the command does not say; no secrets but those it names), and answers with what it wrote. A
/// command that exits non-zero is a result, not a problem.
#[utoipa::path(
    post, path = "/api/v1/workspaces/{workspace}/execute", tag = "workspaces", request_body = Execute,
    params(("workspace" = String, Path, description = "The workspace's id or name.")),
    responses((status = 200, body = Captured))
)]
pub(crate) async fn execute(
    State(gateway): State<Gateway>,
    At(given): At<WorkspaceRef>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Json(body): Json<Execute>,
) -> Result<axum::Json<Captured>, Error> {
    if body.detached {
        return Err(Error::field("async", "is for a VM's commands: send a prompt instead"));
    }
    let workspace = workspaces::find(&gateway, given).await?;
    let worker = gateway.store().worker(workspace.worker_id).await?;
    let command = body.command();
    let workers = gateway.workers();
    let ran = workers.execute_in_workspace(&worker, workspace.id, &command, &request_id).await?;
    Ok(axum::Json(ran))
}

/// Run a command in a workspace interactively
///
/// A WebSocket, as of a VM's command, for a command as `execute` runs it.
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/exec", tag = "workspaces",
    params(("workspace" = String, Path, description = "The workspace's id or name.")),
    responses((status = 101, description = "Switched to WebSocket"))
)]
pub(crate) async fn exec(
    State(gateway): State<Gateway>,
    At(given): At<WorkspaceRef>,
    request: Request,
) -> Result<Response, Error> {
    let workspace = workspaces::find(&gateway, given).await?;
    let worker = gateway.store().worker(workspace.worker_id).await?;
    let path = format!("/internal/v1/workspaces/{}/exec", workspace.id);
    tunnel::join(&gateway, &worker, &path, request).await
}
