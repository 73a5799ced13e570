//! The event log: by the page, or as it is written.

use crate::{
    Error, Gateway,
    api::EventLogQuery,
    event_log,
    extract::{Query, WorkspaceRef, last_seen},
    routes::workspaces,
};
use aetherium_model::{
    WorkspaceId,
    event::{Event, EventFilter, EventPage},
};
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, header};

/// The events of a page whose reader does not say.
const DEFAULT_EVENTS: u32 = 100;

/// Read the event log
///
/// What happened to workspaces, VMs, prompts, executions, tasks, workers and templates, oldest first.
/// As JSON it is paged: `reached` of one page is `after` of the next. With `Accept:
/// text/event-stream` it is followed: server-sent events, `id` the event's number, `event` its type,
/// `data` the event as JSON, from now on or after the number in Last-Event-ID or `after`, at whatever
/// gateway. An event `missing` says that older events than its `oldest` were not seen and are forgotten.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "events",
    params(
        ("Last-Event-ID" = Option<i64>, Header, description = "The number of the last event already seen."),
        EventLogQuery,
    ),
    responses((status = 200, content(
        (EventPage = "application/json"),
        (Event = "text/event-stream"),
    )))
)]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Query(query): Query<EventLogQuery>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let workspace_id = match &query.workspace {
        None => None,
        Some(text) => {
            let given: WorkspaceRef = text.parse().map_err(|e| Error::field("workspace", e))?;
            Some(workspace_id(&gateway, given).await?)
        }
    };
    let types = query.types()?;
    let filter = EventFilter { subject: query.subject, id: query.id, workspace_id, types };
    let begins = query.after.is_some() || headers.contains_key("last-event-id");
    let seen = last_seen(&headers, query.after)?;
    let newest = gateway.store().newest_event().await?;
    if seen > newest {
        let problem = format!("{seen} is the number of no event: the newest is {newest}");
        return Err(Error::field("after", problem));
    }
    if wants_stream(&headers) {
        return event_log::serve(gateway, filter, if begins { seen } else { newest }).await;
    }
    let page =
        gateway.store().history(&filter, seen, query.limit.unwrap_or(DEFAULT_EVENTS)).await?;
    Ok(axum::Json(page).into_response())
}

/// The log knows workspaces that are gone, by their ids.
async fn workspace_id(gateway: &Gateway, given: WorkspaceRef) -> Result<WorkspaceId, Error> {
    match given {
        WorkspaceRef::Id(id) => Ok(id),
        name @ WorkspaceRef::Name(_) => Ok(workspaces::find(gateway, name).await?.id),
    }
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
}
