//! Executions by their id: what became of a command in a VM.

use crate::{
    Error, Gateway,
    api::{EventsQuery, OutputQuery},
    events,
    extract::{At, Query, last_seen},
};
use aetherium_model::{ExecutionId, output::OutputEvent, run::Execution};
use aetherium_store::RunRef;
use axum::{Json, extract::State, response::Response};
use http::HeaderMap;

/// Get an execution
#[utoipa::path(
    get, path = "/api/v1/executions/{execution}", tag = "executions",
    params(("execution" = ExecutionId, Path, description = "The execution's id.")),
    responses((status = 200, body = Execution))
)]
pub(crate) async fn get(
    State(gateway): State<Gateway>,
    At(id): At<ExecutionId>,
) -> Result<Json<Execution>, Error> {
    Ok(Json(gateway.store().execution(id).await?))
}

/// Follow an execution
///
/// Server-sent events, as for a prompt.
#[utoipa::path(
    get, path = "/api/v1/executions/{execution}/events", tag = "executions",
    params(
        ("execution" = ExecutionId, Path, description = "The execution's id."),
        ("Last-Event-ID" = Option<i64>, Header, description = "The number of the last event already seen."),
        EventsQuery,
    ),
    responses(
        (status = 200, body = OutputEvent, content_type = "text/event-stream"),
        (status = 204, description = "The execution has ended, and its last event was seen."),
    )
)]
pub(crate) async fn events(
    State(gateway): State<Gateway>,
    At(id): At<ExecutionId>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let seen = last_seen(&headers, query.after)?;
    events::serve(gateway, RunRef::Execution(id), seen).await
}

/// Download an execution's output
///
/// What it has written so far, as it was written.
#[utoipa::path(
    get, path = "/api/v1/executions/{execution}/output", tag = "executions",
    params(("execution" = ExecutionId, Path, description = "The execution's id."), OutputQuery),
    responses((status = 200, body = String, content_type = "text/plain"))
)]
pub(crate) async fn output(
    State(gateway): State<Gateway>,
    At(id): At<ExecutionId>,
    Query(query): Query<OutputQuery>,
) -> Result<Response, Error> {
    events::download(gateway, RunRef::Execution(id), query.stream).await
}
