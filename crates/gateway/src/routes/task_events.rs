//! Following what a task tells: the log of the run it is for, or its own, as a build has.

use crate::{
    Error, Gateway,
    api::EventsQuery,
    events,
    extract::{At, Query, last_seen},
};
use aetherium_model::{TaskId, output::OutputEvent};
use aetherium_store::RunRef;
use axum::{extract::State, response::Response};
use http::HeaderMap;

/// Follow a task
///
/// Server-sent events, as of a prompt: of a task that runs a command, those of its run; of a template's
/// build, or of a workspace's preparation, its steps, what they print, and how it ended. Other tasks
/// tell nothing (404). Resumes after
/// the number in Last-Event-ID, or in `after`; 204 when there is nothing more to come.
#[utoipa::path(
    get, path = "/api/v1/tasks/{task}/events", tag = "tasks",
    params(
        ("task" = TaskId, Path, description = "The task's id."),
        ("Last-Event-ID" = Option<i64>, Header, description = "The number of the last event already seen."),
        EventsQuery,
    ),
    responses(
        (status = 200, body = OutputEvent, content_type = "text/event-stream"),
        (status = 204, description = "The task has ended, and its last event was seen."),
    )
)]
pub(crate) async fn events(
    State(gateway): State<Gateway>,
    At(id): At<TaskId>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let seen = last_seen(&headers, query.after)?;
    let task = gateway.store().task(id).await?;
    let log = RunRef::log_of(&task)
        .ok_or_else(|| Error::NotFound { what: "log of task", id: id.to_string() })?;
    events::serve(gateway, log, seen).await
}
