//! Hibernating and waking workspaces: the worker that holds one is asked directly, without a task, since
//! all of it is done or not done when it answers.

use crate::{
    Error, Gateway,
    extract::{At, WorkspaceRef},
    routes::workspaces,
    worker_client::Rest,
};
use aetherium_model::workspace::Workspace;
use axum::extract::State;

/// Hibernate a workspace
///
/// Keeps the memory of its VM beside its disk and ends the VM; what ran in it goes on with the next
/// prompt, or when it is woken. Refused while a command runs in it or somebody is attached. One that is
/// hibernated stays so.
#[utoipa::path(
    post, path = "/api/v1/workspaces/{workspace}/hibernate", tag = "workspaces",
    params(("workspace" = String, Path, description = "The workspace's id or name.")),
    responses((status = 200, body = Workspace))
)]
pub(crate) async fn hibernate(
    State(gateway): State<Gateway>,
    At(given): At<WorkspaceRef>,
) -> Result<axum::Json<Workspace>, Error> {
    rest(&gateway, given, Rest::Hibernate).await
}

/// Wake a workspace
///
/// Answers once a VM of it runs: the one that was hibernated, or, where there is none or its memory is
/// of no use any more, one that boots.
#[utoipa::path(
    post, path = "/api/v1/workspaces/{workspace}/wake", tag = "workspaces",
    params(("workspace" = String, Path, description = "The workspace's id or name.")),
    responses((status = 200, body = Workspace))
)]
pub(crate) async fn wake(
    State(gateway): State<Gateway>,
    At(given): At<WorkspaceRef>,
) -> Result<axum::Json<Workspace>, Error> {
    rest(&gateway, given, Rest::Wake).await
}

async fn rest(
    gateway: &Gateway,
    given: WorkspaceRef,
    how: Rest,
) -> Result<axum::Json<Workspace>, Error> {
    let workspace = workspaces::find(gateway, given).await?;
    let worker = gateway.store().worker(workspace.worker_id).await?;
    Ok(axum::Json(gateway.workers().rest(&worker, workspace.id, how).await?))
}
