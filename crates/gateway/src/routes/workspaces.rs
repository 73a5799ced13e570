//! Workspaces: made and removed by tasks.

use crate::{
    Error, Gateway,
    api::{Accepted, CreateWorkspace, ListQuery},
    auth::Acting,
    extract::{At, IdempotencyKey, Json, Query, WorkspaceRef, page},
    fleet::{self, Takes, Wanted},
    gateway::now,
    problem::FieldError,
    routes::{environments, links},
};
use aetherium_model::{
    WorkspaceId,
    environment::{EnvironmentSpec, MadeFrom},
    page::Page,
    placement::WhenFull,
    setup::Preparation,
    task::{Task, TaskKind},
    workspace::{DEFAULT_IDLE_TIMEOUT_S, Lifecycle, Workspace, WorkspaceState},
};
use axum::extract::State;
use http::StatusCode;

/// Create a workspace
///
/// It takes prompts at once; they wait until it is ready. Its VM starts with the first of them.
#[utoipa::path(
    post, path = "/api/v1/workspaces", tag = "workspaces", request_body = CreateWorkspace,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes the request safe to repeat for a day.")),
    responses((status = 201, body = Accepted<Workspace>))
)]
pub(crate) async fn create(
    Acting(gateway): Acting,
    key: IdempotencyKey,
    Json(body): Json<CreateWorkspace>,
) -> Result<(StatusCode, axum::Json<Accepted<Workspace>>), Error> {
    let key = key.bind(&body)?;
    let Resolved { environment, spec: asked } = resolve(&gateway, &body).await?;
    let wanted = Wanted {
        template: asked.template.clone(),
        vcpus: asked.vcpus,
        memory_mib: asked.memory_mib,
        disk_mib: asked.disk_mib,
        tuning: body.tuning(),
        network: asked.network,
        transport: body.transport,
        snapshot: None,
        snapshots: body.snapshots(asked.idle_action),
        placement: asked.placement.clone(),
        when_full: body.when_full.unwrap_or(WhenFull::Fail),
        takes: Takes::Disk,
    };
    let workspace = |worker_id, spec| Workspace {
        id: WorkspaceId::new(),
        name: body.name.clone(),
        ai_assistant: asked.ai_assistant.clone().unwrap_or_default(),
        environment: environment.clone(),
        setup: asked.setup.clone(),
        preparation: Preparation::default(),
        session: None,
        spec,
        worker_id,
        lifecycle: Lifecycle::Stopped,
        secrets: asked.secrets.clone(),
        idle_timeout_s: asked.idle_timeout_s.unwrap_or(DEFAULT_IDLE_TIMEOUT_S),
        idle_action: asked.idle_action.unwrap_or_default(),
        placement: asked.placement.clone(),
        when_full: body.when_full,
        state: WorkspaceState::Creating,
        created_at: now(),
        updated_at: now(),
    };
    let (created, task) = fleet::place(&gateway, wanted, |worker, spec| {
        let workspace = workspace(worker, spec);
        let task = fleet::task(worker, TaskKind::WorkspaceCreate { workspace_id: workspace.id });
        let (queue, key) = (gateway.queue().clone(), key.clone());
        async move { Ok((queue.create_workspace(&workspace, &task, key.as_ref()).await?, task)) }
    })
    .await?;
    let task = created.is_new().then_some(task.id);
    let workspace = created.into_inner();
    let links = links(&format!("/api/v1/workspaces/{}", workspace.id), task, &["prompts"]);
    Ok((StatusCode::CREATED, axum::Json(Accepted { item: workspace, links })))
}

/// What a workspace is to be made of.
struct Resolved {
    environment: Option<MadeFrom>,
    spec: EnvironmentSpec,
}

/// What its creator says, over what the environment does that it names.
async fn resolve(gateway: &Gateway, body: &CreateWorkspace) -> Result<Resolved, Error> {
    let asked = body.asked();
    // First by itself, so that an error says where in the request it is.
    environments::check(gateway, &asked)?;
    let (environment, spec) = match &body.environment {
        None => (None, asked),
        Some(name) => {
            let found = environments::named(gateway, name).await?;
            let both = found.spec.with(&asked);
            (Some(found.reference()), both.map_err(|it| Error::field(it.field, it.problem))?)
        }
    };
    // Each was allowed by itself; together they may be too much, or want what neither has.
    let objections = spec.objections().into_iter().chain(spec.unknown_variables());
    let errors: Vec<_> = objections.map(FieldError::from).collect();
    if !errors.is_empty() {
        return Err(Error::Invalid { errors });
    }
    let assistant = Some(spec.ai_assistant.unwrap_or_default());
    let spec = EnvironmentSpec { ai_assistant: assistant, ..spec };
    environments::check(gateway, &spec)?;
    Ok(Resolved { environment, spec })
}

/// List workspaces
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/workspaces", tag = "workspaces", params(ListQuery),
    responses((status = 200, body = Page<Workspace>))
)]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<Workspace>>, Error> {
    let page = page(query.limit, query.cursor)?;
    Ok(axum::Json(gateway.store().workspaces(&page).await?))
}

/// Get a workspace
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}", tag = "workspaces",
    params(("workspace" = String, Path, description = "The workspace's id or name.")),
    responses((status = 200, body = Workspace))
)]
pub(crate) async fn get(
    State(gateway): State<Gateway>,
    At(given): At<WorkspaceRef>,
) -> Result<axum::Json<Workspace>, Error> {
    Ok(axum::Json(find(&gateway, given).await?))
}

/// Delete a workspace
///
/// Cancels its prompts, ends its VM, and removes its disk and its prompts with their output. Asked
/// again, answers with the same task.
#[utoipa::path(
    delete, path = "/api/v1/workspaces/{workspace}", tag = "workspaces",
    params(("workspace" = String, Path, description = "The workspace's id or name.")),
    responses((status = 202, body = Task))
)]
pub(crate) async fn delete(
    Acting(gateway): Acting,
    At(given): At<WorkspaceRef>,
) -> Result<(StatusCode, axum::Json<Task>), Error> {
    let workspace = find(&gateway, given).await?;
    let kind = TaskKind::WorkspaceDelete { workspace_id: workspace.id };
    let task = fleet::task(workspace.worker_id, kind);
    let task = gateway.queue().begin_delete_workspace(workspace.id, &task).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(task)))
}

/// The workspace that a caller means.
pub(crate) async fn find(gateway: &Gateway, given: WorkspaceRef) -> Result<Workspace, Error> {
    Ok(match given {
        WorkspaceRef::Id(id) => gateway.store().workspace(id).await?,
        WorkspaceRef::Name(name) => gateway.store().workspace_by_name(&name).await?,
    })
}
