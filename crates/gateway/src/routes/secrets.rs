//! Secrets: written, listed and removed. No route shows a value.

use crate::{
    Error, Gateway,
    api::{ListQuery, PutSecret},
    auth::Acting,
    extract::{At, Json, Query, WorkspaceRef, page},
    gateway::now,
    routes::workspaces,
};
use aetherium_model::{
    page::Page,
    secret::{Secret, SecretName, SecretScope},
};
use http::StatusCode;

/// Set a secret of the project
///
/// Every workspace and VM of the project may ask for it by its name. A secret that has the name gets the
/// new value; what runs keeps the one it got. The value is never shown again.
#[utoipa::path(
    post, path = "/api/v1/secrets", tag = "secrets", request_body = PutSecret,
    responses((status = 200, body = Secret))
)]
pub(crate) async fn put(
    Acting(gateway): Acting,
    Json(body): Json<PutSecret>,
) -> Result<axum::Json<Secret>, Error> {
    set(&gateway, SecretScope::Project, body).await
}

/// List the project's secrets
///
/// Newest first, without their values.
#[utoipa::path(
    get, path = "/api/v1/secrets", tag = "secrets", params(ListQuery),
    responses((status = 200, body = Page<Secret>))
)]
pub(crate) async fn list(
    Acting(gateway): Acting,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<Secret>>, Error> {
    let page = page(query.limit, query.cursor)?;
    Ok(axum::Json(gateway.store().secrets(SecretScope::Project, &page).await?))
}

/// Delete a secret of the project
///
/// What runs keeps what it got.
#[utoipa::path(
    delete, path = "/api/v1/secrets/{secret}", tag = "secrets",
    params(("secret" = SecretName, Path, description = "The secret's name.")),
    responses((status = 204, description = "It is gone."))
)]
pub(crate) async fn delete(
    Acting(gateway): Acting,
    At(name): At<SecretName>,
) -> Result<StatusCode, Error> {
    gateway.store().delete_secret(SecretScope::Project, &name, now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Set a secret of a workspace
///
/// For its prompts, and for commands in its VM, it goes before the project's of the same name.
#[utoipa::path(
    post, path = "/api/v1/workspaces/{workspace}/secrets", tag = "secrets", request_body = PutSecret,
    params(("workspace" = String, Path, description = "The workspace's id or name.")),
    responses((status = 200, body = Secret))
)]
pub(crate) async fn put_own(
    Acting(gateway): Acting,
    At(workspace): At<WorkspaceRef>,
    Json(body): Json<PutSecret>,
) -> Result<axum::Json<Secret>, Error> {
    set(&gateway, own(&gateway, workspace).await?, body).await
}

/// List a workspace's secrets
///
/// Newest first, without their values; those of its project are not among them.
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/secrets", tag = "secrets",
    params(("workspace" = String, Path, description = "The workspace's id or name."), ListQuery),
    responses((status = 200, body = Page<Secret>))
)]
pub(crate) async fn list_own(
    Acting(gateway): Acting,
    At(workspace): At<WorkspaceRef>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<Secret>>, Error> {
    let page = page(query.limit, query.cursor)?;
    let scope = own(&gateway, workspace).await?;
    Ok(axum::Json(gateway.store().secrets(scope, &page).await?))
}

/// Delete a secret of a workspace
///
/// What runs keeps what it got.
#[utoipa::path(
    delete, path = "/api/v1/workspaces/{workspace}/secrets/{secret}", tag = "secrets",
    params(
        ("workspace" = String, Path, description = "The workspace's id or name."),
        ("secret" = SecretName, Path, description = "The secret's name."),
    ),
    responses((status = 204, description = "It is gone."))
)]
pub(crate) async fn delete_own(
    Acting(gateway): Acting,
    At(workspace): At<WorkspaceRef>,
    At(name): At<SecretName>,
) -> Result<StatusCode, Error> {
    let scope = own(&gateway, workspace).await?;
    gateway.store().delete_secret(scope, &name, now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn own(gateway: &Gateway, workspace: WorkspaceRef) -> Result<SecretScope, Error> {
    Ok(SecretScope::Workspace(workspaces::find(gateway, workspace).await?.id))
}

async fn set(
    gateway: &Gateway,
    scope: SecretScope,
    body: PutSecret,
) -> Result<axum::Json<Secret>, Error> {
    let value = body.value().ok_or_else(|| Error::field("value", "is not base64"))?;
    let put = gateway.store().put_secret(scope, &body.name, body.kind, &value, now());
    Ok(axum::Json(put.await?))
}
