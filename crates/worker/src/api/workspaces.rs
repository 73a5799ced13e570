//! The part of the internal API that hibernates and wakes workspaces, and runs commands in them.

use super::Refused;
use crate::{execution, host::Host, prompt, workspace};
use aetherium_model::{WorkspaceId, interactive::Captured, run::Command, workspace::Workspace};
use axum::{
    Json, Router,
    extract::{Path, State},
    routing::post,
};
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Host>> {
    Router::new()
        .route("/internal/v1/workspaces/{id}/hibernate", post(hibernate))
        .route("/internal/v1/workspaces/{id}/wake", post(wake))
        .route("/internal/v1/workspaces/{id}/execute", post(execute))
}

type Answer = Result<Json<Workspace>, Refused>;

async fn hibernate(State(host): State<Arc<Host>>, Path(id): Path<WorkspaceId>) -> Answer {
    Ok(Json(workspace::hibernate(&host, id).await?))
}

async fn wake(State(host): State<Arc<Host>>, Path(id): Path<WorkspaceId>) -> Answer {
    Ok(Json(workspace::wake(&host, id).await?))
}

async fn execute(
    State(host): State<Arc<Host>>,
    Path(id): Path<WorkspaceId>,
    Json(command): Json<Command>,
) -> Result<Json<Captured>, Refused> {
    let workspace = workspace::ready(&host, id).await?;
    let (vm, _hold) = workspace::ensure_vm(&host, id, None).await?;
    let command = prompt::in_workspace(&host, &vm, &workspace, command).await?;
    Ok(Json(execution::captured(&host, vm.id(), command).await?))
}
