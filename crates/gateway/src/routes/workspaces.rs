//! Workspaces: made and removed by tasks.

use crate::{
    Error, Gateway,
    api::{Accepted, CreateWorkspace, ListQuery},
    auth::Acting,
    extract::{At, IdempotencyKey, Json, Query, WorkspaceRef, page},
    fleet::{self, Takes, Wanted},
    gateway::now,
    routes::{links, tools},
};
use aetherium_model::{
    WorkspaceId,
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
    tools::check(&gateway, "setup", &body.setup.tools)?;
    let (tuning, snapshots) = (body.tuning(), body.snapshots());
    let wanted = Wanted {
        template: body.template,
        vcpus: body.vcpus,
        memory_mib: body.memory_mib,
        disk_mib: body.disk_mib,
        tuning,
        network: body.network,
        transport: body.transport,
        snapshot: None,
        snapshots,
        placement: body.placement.clone(),
        when_full: body.when_full.unwrap_or(WhenFull::Fail),
        takes: Takes::Disk,
    };
    let workspace = |worker_id, spec| Workspace {
        id: WorkspaceId::new(),
        name: body.name.clone(),
        ai_assistant: body.ai_assistant.clone().unwrap_or_default(),
        environment: None,
        setup: body.setup.clone(),
        preparation: Preparation::default(),
        session: None,
        spec,
        worker_id,
        lifecycle: Lifecycle::Stopped,
        secrets: body.secrets.clone(),
        idle_timeout_s: body.idle_timeout_s.unwrap_or(DEFAULT_IDLE_TIMEOUT_S),
        idle_action: body.idle_action.unwrap_or_default(),
        placement: body.placement.clone(),
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
