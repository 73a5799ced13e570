//! Projects: what each may use, and uses.

use crate::{
    Error, Gateway,
    auth::Caller,
    extract::{At, Json},
};
use aetherium_model::{
    Code, Fault,
    project::{Limits, Project, ProjectId},
};
use axum::{Extension, extract::State};

/// Get a project
///
/// Its limits and what it uses now. Keys that name no project belong to `default`.
#[utoipa::path(
    get, path = "/api/v1/projects/{project}", tag = "projects",
    params(("project" = String, Path, description = "The project's name.")),
    responses((status = 200, body = Project))
)]
pub(crate) async fn get(
    State(gateway): State<Gateway>,
    At(id): At<ProjectId>,
) -> Result<axum::Json<Project>, Error> {
    Ok(axum::Json(gateway.store().project(&id).await?))
}

/// Set a project's limits
///
/// All of them: what is absent has no limit. What the project uses already it keeps. Keys of the project
/// `default` may do this.
#[utoipa::path(
    post, path = "/api/v1/projects/{project}/limits", tag = "projects", request_body = Limits,
    params(("project" = String, Path, description = "The project's name.")),
    responses((status = 200, body = Project))
)]
pub(crate) async fn limit(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    At(id): At<ProjectId>,
    Json(limits): Json<Limits>,
) -> Result<axum::Json<Project>, Error> {
    if caller.project != ProjectId::default() {
        let detail = format!("a key of project {} may not set limits", caller.project);
        return Err(Fault::new(Code::Forbidden, detail)
            .remedy("ask for it with a key of the project default")
            .into());
    }
    Ok(axum::Json(gateway.store().set_limits(&id, limits).await?))
}
