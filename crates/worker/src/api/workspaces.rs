//! The part of the internal API that hibernates and wakes workspaces.

use super::Refused;
use crate::{host::Host, workspace};
use aetherium_model::{WorkspaceId, workspace::Workspace};
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
}

type Answer = Result<Json<Workspace>, Refused>;

async fn hibernate(State(host): State<Arc<Host>>, Path(id): Path<WorkspaceId>) -> Answer {
    Ok(Json(workspace::hibernate(&host, id).await?))
}

async fn wake(State(host): State<Arc<Host>>, Path(id): Path<WorkspaceId>) -> Answer {
    Ok(Json(workspace::wake(&host, id).await?))
}
