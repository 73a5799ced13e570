//! The part of the internal API that logs assistants in.

use super::Refused;
use crate::{
    host::Host,
    login::{self, Answer},
};
use aetherium_model::{
    LoginId, WorkspaceId,
    login::{Login, StartLogin, SubmitCallback, SubmitCode},
};
use axum::{
    Json, Router,
    extract::{Path, State},
    routing::post,
};
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Host>> {
    Router::new()
        .route("/internal/v1/workspaces/{id}/logins", post(start))
        .route("/internal/v1/workspaces/{id}/logins/{login}/code", post(code))
        .route("/internal/v1/workspaces/{id}/logins/{login}/callback", post(callback))
        .route("/internal/v1/workspaces/{id}/logins/{login}/cancel", post(cancel))
}

type Taken = Result<Json<Login>, Refused>;

async fn start(
    State(host): State<Arc<Host>>,
    Path(id): Path<WorkspaceId>,
    Json(body): Json<StartLogin>,
) -> Taken {
    Ok(Json(login::start(&host, id, body).await?))
}

async fn code(
    State(host): State<Arc<Host>>,
    Path((workspace, id)): Path<(WorkspaceId, LoginId)>,
    Json(body): Json<SubmitCode>,
) -> Taken {
    Ok(Json(login::submit(&host, workspace, id, Answer::Code(body.code)).await?))
}

async fn callback(
    State(host): State<Arc<Host>>,
    Path((workspace, id)): Path<(WorkspaceId, LoginId)>,
    Json(body): Json<SubmitCallback>,
) -> Taken {
    Ok(Json(login::submit(&host, workspace, id, Answer::Callback(body.url)).await?))
}

async fn cancel(
    State(host): State<Arc<Host>>,
    Path((workspace, id)): Path<(WorkspaceId, LoginId)>,
) -> Taken {
    Ok(Json(login::cancel(&host, workspace, id).await?))
}
