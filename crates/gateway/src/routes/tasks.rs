//! Tasks: the durable work behind everything that was taken on.

use crate::{
    Error, Gateway,
    api::TaskQuery,
    auth::Acting,
    extract::{At, Query, page},
    gateway::now,
};
use aetherium_model::{TaskId, page::Page, task::Task};
use aetherium_store::TaskFilter;
use axum::{Json, extract::State};

/// List tasks
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/tasks", tag = "tasks", params(TaskQuery),
    responses((status = 200, body = Page<Task>))
)]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Query(query): Query<TaskQuery>,
) -> Result<Json<Page<Task>>, Error> {
    let page = page(query.limit, query.cursor)?;
    let TaskQuery { state, kind, dead, .. } = query;
    let filter = TaskFilter { state, kind, worker_id: None, dead };
    Ok(Json(gateway.store().tasks(&filter, &page).await?))
}

/// Get a task
#[utoipa::path(
    get, path = "/api/v1/tasks/{task}", tag = "tasks",
    params(("task" = TaskId, Path, description = "The task's id.")),
    responses((status = 200, body = Task))
)]
pub(crate) async fn get(
    State(gateway): State<Gateway>,
    At(id): At<TaskId>,
) -> Result<Json<Task>, Error> {
    Ok(Json(gateway.store().task(id).await?))
}

/// Do a failed task again
///
/// With as many tries as a new one. Refused where that is of no use or not safe: what ran a command, or
/// was to make something, is asked for anew instead.
#[utoipa::path(
    post, path = "/api/v1/tasks/{task}/requeue", tag = "tasks",
    params(("task" = TaskId, Path, description = "The task's id.")),
    responses((status = 200, body = Task))
)]
pub(crate) async fn requeue(
    State(gateway): State<Gateway>,
    At(id): At<TaskId>,
) -> Result<Json<Task>, Error> {
    Ok(Json(gateway.queue().requeue_failed(id).await?))
}

/// Cancel a task
///
/// One that waits to run a command is cancelled at once; of others the handler is asked. Asking
/// again, or for one that has ended, changes nothing.
#[utoipa::path(
    post, path = "/api/v1/tasks/{task}/cancel", tag = "tasks",
    params(("task" = TaskId, Path, description = "The task's id.")),
    responses((status = 200, body = Task))
)]
pub(crate) async fn cancel(
    Acting(gateway): Acting,
    At(id): At<TaskId>,
) -> Result<Json<Task>, Error> {
    Ok(Json(gateway.queue().request_cancel_task(id, now()).await?))
}
