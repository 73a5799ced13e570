//! Environments: what workspaces are made from, in versions. They are only read as a workspace is made.

use crate::{
    Error, Gateway,
    api::{CreateEnvironment, ListQuery, ReplaceEnvironment},
    auth::Acting,
    extract::{At, EnvironmentRef, IdempotencyKey, Json, Query, VersionNumber, page},
    gateway::now,
    problem::FieldError,
    routes::assistants,
};
use aetherium_model::{
    Code, EnvironmentId, Name,
    environment::{Environment, EnvironmentSpec},
    page::Page,
};
use axum::extract::State;
use http::StatusCode;

/// Create an environment
///
/// As its first version. Workspaces are made from it by its name.
#[utoipa::path(
    post, path = "/api/v1/environments", tag = "environments", request_body = CreateEnvironment,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes the request safe to repeat for a day.")),
    responses((status = 201, body = Environment))
)]
pub(crate) async fn create(
    Acting(gateway): Acting,
    key: IdempotencyKey,
    Json(body): Json<CreateEnvironment>,
) -> Result<(StatusCode, axum::Json<Environment>), Error> {
    let key = key.bind(&body)?;
    check(&gateway, &body.spec)?;
    let now = now();
    let environment = Environment {
        id: EnvironmentId::new(),
        name: body.name,
        version: 1,
        spec: body.spec,
        created_at: now,
        updated_at: now,
    };
    let created = gateway.store().create_environment(&environment, key.as_ref()).await?;
    Ok((StatusCode::CREATED, axum::Json(created.into_inner())))
}

/// List environments
///
/// Newest first, each in its newest version.
#[utoipa::path(
    get, path = "/api/v1/environments", tag = "environments", params(ListQuery),
    responses((status = 200, body = Page<Environment>))
)]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<Environment>>, Error> {
    let page = page(query.limit, query.cursor)?;
    Ok(axum::Json(gateway.store().environments(&page).await?))
}

/// Get an environment
///
/// In its newest version.
#[utoipa::path(
    get, path = "/api/v1/environments/{environment}", tag = "environments",
    params(("environment" = String, Path, description = "The environment's id or name.")),
    responses((status = 200, body = Environment))
)]
pub(crate) async fn get(
    State(gateway): State<Gateway>,
    At(given): At<EnvironmentRef>,
) -> Result<axum::Json<Environment>, Error> {
    Ok(axum::Json(find(&gateway, given).await?))
}

/// Replace what an environment says
///
/// Which makes its next version, if `version` is the newest: a change that another made meanwhile is not
/// overwritten unseen. What it says already makes no version. Workspaces that were made from it stay as they
/// are.
#[utoipa::path(
    put, path = "/api/v1/environments/{environment}", tag = "environments",
    request_body = ReplaceEnvironment,
    params(("environment" = String, Path, description = "The environment's id or name.")),
    responses((status = 200, body = Environment))
)]
pub(crate) async fn replace(
    Acting(gateway): Acting,
    At(given): At<EnvironmentRef>,
    Json(body): Json<ReplaceEnvironment>,
) -> Result<axum::Json<Environment>, Error> {
    check(&gateway, &body.spec)?;
    let environment = find(&gateway, given).await?;
    let ReplaceEnvironment { version, spec } = body;
    let changed = gateway.store().change_environment(environment.id, version, &spec, now()).await?;
    Ok(axum::Json(changed))
}

/// Delete an environment
///
/// With its versions. Workspaces that were made from it stay, and keep what it said then.
#[utoipa::path(
    delete, path = "/api/v1/environments/{environment}", tag = "environments",
    params(("environment" = String, Path, description = "The environment's id or name.")),
    responses((status = 204, description = "It is gone."))
)]
pub(crate) async fn delete(
    Acting(gateway): Acting,
    At(given): At<EnvironmentRef>,
) -> Result<StatusCode, Error> {
    let environment = find(&gateway, given).await?;
    gateway.store().delete_environment(environment.id, now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List an environment's versions
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/environments/{environment}/versions", tag = "environments",
    params(("environment" = String, Path, description = "The environment's id or name."), ListQuery),
    responses((status = 200, body = Page<Environment>))
)]
pub(crate) async fn versions(
    State(gateway): State<Gateway>,
    At(given): At<EnvironmentRef>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<Environment>>, Error> {
    let page = page(query.limit, query.cursor)?;
    let environment = find(&gateway, given).await?;
    Ok(axum::Json(gateway.store().environment_versions(environment.id, &page).await?))
}

/// Get a version of an environment
#[utoipa::path(
    get, path = "/api/v1/environments/{environment}/versions/{version}", tag = "environments",
    params(
        ("environment" = String, Path, description = "The environment's id or name."),
        ("version" = u32, Path, description = "The version's number."),
    ),
    responses((status = 200, body = Environment))
)]
pub(crate) async fn version(
    State(gateway): State<Gateway>,
    At(given): At<EnvironmentRef>,
    At(VersionNumber(version)): At<VersionNumber>,
) -> Result<axum::Json<Environment>, Error> {
    let environment = find(&gateway, given).await?;
    Ok(axum::Json(gateway.store().environment_version(environment.id, version).await?))
}

/// The environment that a caller means, in its newest version.
async fn find(gateway: &Gateway, given: EnvironmentRef) -> Result<Environment, Error> {
    Ok(match given {
        EnvironmentRef::Id(id) => gateway.store().environment(id).await?,
        EnvironmentRef::Name(name) => gateway.store().environment_by_name(&name).await?,
    })
}

/// The environment that a workspace is to be made from.
pub(crate) async fn named(gateway: &Gateway, name: &Name) -> Result<Environment, Error> {
    find(gateway, name.clone().into()).await.map_err(|error| match error {
        Error::Fault(fault) if fault.code == Code::NotFound => {
            Error::Unknown { field: "environment", what: "environment", id: name.to_string() }
        }
        other => other,
    })
}

/// Refuses what names something that the catalogue does not have.
pub(crate) fn check(gateway: &Gateway, spec: &EnvironmentSpec) -> Result<(), Error> {
    let catalog = &gateway.config().catalog;
    let assistant = spec.ai_assistant.as_ref();
    let options = &spec.setup.assistant;
    let checked = assistant.map(|it| assistants::check(gateway, it, "setup.assistant", options));
    let mut errors = checked.and_then(Result::err).into_iter().collect::<Vec<FieldError>>();
    if let Err(problems) = catalog.check_tools(&spec.setup.tools) {
        errors.extend(problems.0.iter().map(|it| FieldError {
            field: format!("setup.tools[{}]", it.index),
            problem: it.to_string(),
        }));
    }
    if errors.is_empty() { Ok(()) } else { Err(Error::Invalid { errors }) }
}
