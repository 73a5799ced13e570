//! The part of the internal API that hibernates and wakes workspaces, and runs commands in them.

use super::Refused;
use crate::{
    execution::{self, Place},
    host::Host,
    workspace,
};
use aetherium_model::{
    WorkspaceId,
    interactive::{Captured, MAX_FRAME_BYTES},
    run::Command,
    workspace::Workspace,
};
use axum::{
    Json, Router,
    extract::{Path, State, WebSocketUpgrade},
    response::Response,
    routing::{get, post},
};
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Host>> {
    Router::new()
        .route("/internal/v1/workspaces/{id}/hibernate", post(hibernate))
        .route("/internal/v1/workspaces/{id}/wake", post(wake))
        .route("/internal/v1/workspaces/{id}/execute", post(execute))
        .route("/internal/v1/workspaces/{id}/exec", get(exec))
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
    Ok(Json(execution::captured(&host, Place::Workspace(id), command).await?))
}

async fn exec(
    State(host): State<Arc<Host>>,
    Path(id): Path<WorkspaceId>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Refused> {
    // Before the upgrade, so that one that takes no command is an ordinary answer.
    workspace::ready(&host, id).await?;
    Ok(upgrade
        .max_frame_size(MAX_FRAME_BYTES)
        .max_message_size(MAX_FRAME_BYTES)
        .on_upgrade(move |socket| execution::interactive(host, Place::Workspace(id), socket)))
}
