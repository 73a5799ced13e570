//! Prompts: sent to a workspace, run in order, followed by their events.
//!
//! A prompt is addressed below its workspace, and also by its own id alone.

use crate::{
    Error, Gateway,
    api::{Accepted, CreatePrompt, EventsQuery, ListQuery, OutputQuery},
    auth::Acting,
    events,
    extract::{At, IdempotencyKey, Json, Query, WorkspaceRef, last_seen, page},
    fleet,
    gateway::now,
    routes::{assistants, links, workspaces},
};
use aetherium_catalog::Ask;
use aetherium_model::{
    PromptId,
    output::OutputEvent,
    page::Page,
    run::{Command, RunState},
    setup::StepAction,
    task::TaskKind,
    workspace::{Prompt, Workspace},
};
use aetherium_store::RunRef;
use axum::{extract::State, response::Response};
use http::{HeaderMap, StatusCode};

/// Send a prompt
///
/// Queued behind the workspace's other prompts; its events tell how it goes.
#[utoipa::path(
    post, path = "/api/v1/workspaces/{workspace}/prompts", tag = "prompts",
    request_body = CreatePrompt,
    params(
        ("workspace" = String, Path, description = "The workspace's id or name."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes the request safe to repeat for a day."),
    ),
    responses((status = 202, body = Accepted<Prompt>))
)]
pub(crate) async fn create(
    Acting(gateway): Acting,
    At(workspace): At<WorkspaceRef>,
    key: IdempotencyKey,
    Json(body): Json<CreatePrompt>,
) -> Result<(StatusCode, axum::Json<Accepted<Prompt>>), Error> {
    let key = key.bind(&body)?;
    let workspace = workspaces::find(&gateway, workspace).await?;
    refuse_if_unrunnable(&gateway, &workspace, &body).await?;
    let id = PromptId::new();
    let kind = TaskKind::PromptExecute { workspace_id: workspace.id, prompt_id: id };
    let task = fleet::task(workspace.worker_id, kind).scheduled(body.schedule);
    let prompt = Prompt {
        id,
        workspace_id: workspace.id,
        task_id: task.id,
        options: body.options(),
        prompt: body.prompt,
        secrets: body.secrets,
        timeout_ms: body.timeout_ms,
        vm_id: None,
        state: RunState::Queued,
        created_at: now(),
        started_at: None,
        finished_at: None,
    };
    let prompt = gateway.queue().create_prompt(&prompt, &task, key.as_ref()).await?.into_inner();
    let own = format!("/api/v1/workspaces/{}/prompts/{}", workspace.id, prompt.id);
    let links = links(&own, Some(prompt.task_id), &["events", "output", "cancel"]);
    Ok((StatusCode::ACCEPTED, axum::Json(Accepted { item: prompt, links })))
}

/// A prompt that its assistant cannot put into a command, or cannot answer, is refused now, not when its turn
/// comes.
async fn refuse_if_unrunnable(
    gateway: &Gateway,
    workspace: &Workspace,
    body: &CreatePrompt,
) -> Result<(), Error> {
    let name = &workspace.ai_assistant;
    let options = workspace.setup.assistant.with(&body.assistant);
    assistants::check(gateway, name, "assistant", &options)
        .map_err(|error| Error::Invalid { errors: vec![error] })?;
    let assistant = gateway.config().catalog.assistant(name)?;
    let command = assistant.command(&Ask { options, ..Ask::of(&body.prompt) });
    let command = Command { timeout_ms: body.timeout_ms, ..command };
    command.validate().map_err(|invalid| Error::field("prompt", invalid))?;
    let uses = workspace.secrets.with(&body.secrets);
    let set_by_steps = workspace.setup.preparation.iter().filter_map(|step| match &step.action {
        StepAction::Env(variables) => Some(variables),
        _ => None,
    });
    let variables: Vec<_> =
        [&workspace.setup.env, &body.env].into_iter().chain(set_by_steps).collect();
    let has = |name: &str| variables.iter().any(|it| it.keys().any(|key| key.as_str() == name));
    assistants::check_credentials(gateway, workspace, &uses, has).await
}

/// List a workspace's prompts
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/prompts", tag = "prompts",
    params(("workspace" = String, Path, description = "The workspace's id or name."), ListQuery),
    responses((status = 200, body = Page<Prompt>))
)]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    At(workspace): At<WorkspaceRef>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<Prompt>>, Error> {
    let page = page(query.limit, query.cursor)?;
    let workspace = workspaces::find(&gateway, workspace).await?;
    Ok(axum::Json(gateway.store().prompts(workspace.id, &page).await?))
}

/// Get a prompt
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/prompts/{prompt}", tag = "prompts",
    params(
        ("workspace" = String, Path, description = "The workspace's id or name."),
        ("prompt" = PromptId, Path, description = "The prompt's id."),
    ),
    responses((status = 200, body = Prompt))
)]
pub(crate) async fn get(
    State(gateway): State<Gateway>,
    At(workspace): At<WorkspaceRef>,
    At(id): At<PromptId>,
) -> Result<axum::Json<Prompt>, Error> {
    Ok(axum::Json(find(&gateway, Some(workspace), id).await?))
}

/// Cancel a prompt
///
/// One that waits is cancelled at once; one that runs is ended in its VM. Asking again, or for one
/// that has ended, changes nothing.
#[utoipa::path(
    post, path = "/api/v1/workspaces/{workspace}/prompts/{prompt}/cancel", tag = "prompts",
    params(
        ("workspace" = String, Path, description = "The workspace's id or name."),
        ("prompt" = PromptId, Path, description = "The prompt's id."),
    ),
    responses((status = 200, body = Prompt))
)]
pub(crate) async fn cancel(
    Acting(gateway): Acting,
    At(workspace): At<WorkspaceRef>,
    At(id): At<PromptId>,
) -> Result<axum::Json<Prompt>, Error> {
    let prompt = find(&gateway, Some(workspace), id).await?;
    cancel_one(&gateway, prompt).await
}

/// Follow a prompt
///
/// Server-sent events: `id` is the event's number, `event` its type, `data` the event as JSON. The
/// stream ends after the `end` event. Resumes after the number in Last-Event-ID, or in `after`;
/// 204 when there is nothing more to come.
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/prompts/{prompt}/events", tag = "prompts",
    params(
        ("workspace" = String, Path, description = "The workspace's id or name."),
        ("prompt" = PromptId, Path, description = "The prompt's id."),
        ("Last-Event-ID" = Option<i64>, Header, description = "The number of the last event already seen."),
        EventsQuery,
    ),
    responses(
        (status = 200, body = OutputEvent, content_type = "text/event-stream"),
        (status = 204, description = "The prompt has ended, and its last event was seen."),
    )
)]
pub(crate) async fn events(
    State(gateway): State<Gateway>,
    At(workspace): At<WorkspaceRef>,
    At(id): At<PromptId>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let seen = last_seen(&headers, query.after)?;
    find(&gateway, Some(workspace), id).await?;
    events::serve(gateway, RunRef::Prompt(id), seen).await
}

/// Download a prompt's output
///
/// What it has written so far, as it was written.
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/prompts/{prompt}/output", tag = "prompts",
    params(
        ("workspace" = String, Path, description = "The workspace's id or name."),
        ("prompt" = PromptId, Path, description = "The prompt's id."),
        OutputQuery,
    ),
    responses((status = 200, body = String, content_type = "text/plain"))
)]
pub(crate) async fn output(
    State(gateway): State<Gateway>,
    At(workspace): At<WorkspaceRef>,
    At(id): At<PromptId>,
    Query(query): Query<OutputQuery>,
) -> Result<Response, Error> {
    find(&gateway, Some(workspace), id).await?;
    events::download(gateway, RunRef::Prompt(id), query.stream).await
}

/// Get a prompt by its id alone
#[utoipa::path(
    get, path = "/api/v1/prompts/{prompt}", tag = "prompts",
    params(("prompt" = PromptId, Path, description = "The prompt's id.")),
    responses((status = 200, body = Prompt))
)]
pub(crate) async fn get_short(
    State(gateway): State<Gateway>,
    At(id): At<PromptId>,
) -> Result<axum::Json<Prompt>, Error> {
    Ok(axum::Json(find(&gateway, None, id).await?))
}

/// Cancel a prompt by its id alone
#[utoipa::path(
    post, path = "/api/v1/prompts/{prompt}/cancel", tag = "prompts",
    params(("prompt" = PromptId, Path, description = "The prompt's id.")),
    responses((status = 200, body = Prompt))
)]
pub(crate) async fn cancel_short(
    Acting(gateway): Acting,
    At(id): At<PromptId>,
) -> Result<axum::Json<Prompt>, Error> {
    let prompt = find(&gateway, None, id).await?;
    cancel_one(&gateway, prompt).await
}

/// Follow a prompt by its id alone
///
/// As below its workspace.
#[utoipa::path(
    get, path = "/api/v1/prompts/{prompt}/events", tag = "prompts",
    params(
        ("prompt" = PromptId, Path, description = "The prompt's id."),
        ("Last-Event-ID" = Option<i64>, Header, description = "The number of the last event already seen."),
        EventsQuery,
    ),
    responses(
        (status = 200, body = OutputEvent, content_type = "text/event-stream"),
        (status = 204, description = "The prompt has ended, and its last event was seen."),
    )
)]
pub(crate) async fn events_short(
    State(gateway): State<Gateway>,
    At(id): At<PromptId>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let seen = last_seen(&headers, query.after)?;
    find(&gateway, None, id).await?;
    events::serve(gateway, RunRef::Prompt(id), seen).await
}

/// Download a prompt's output by its id alone
#[utoipa::path(
    get, path = "/api/v1/prompts/{prompt}/output", tag = "prompts",
    params(("prompt" = PromptId, Path, description = "The prompt's id."), OutputQuery),
    responses((status = 200, body = String, content_type = "text/plain"))
)]
pub(crate) async fn output_short(
    State(gateway): State<Gateway>,
    At(id): At<PromptId>,
    Query(query): Query<OutputQuery>,
) -> Result<Response, Error> {
    find(&gateway, None, id).await?;
    events::download(gateway, RunRef::Prompt(id), query.stream).await
}

/// The prompt, if it is this workspace's.
async fn find(
    gateway: &Gateway,
    workspace: Option<WorkspaceRef>,
    id: PromptId,
) -> Result<Prompt, Error> {
    let prompt = gateway.store().prompt(id).await?;
    if let Some(given) = workspace
        && workspaces::find(gateway, given).await?.id != prompt.workspace_id
    {
        return Err(Error::NotFound { what: "prompt of this workspace", id: id.to_string() });
    }
    Ok(prompt)
}

async fn cancel_one(gateway: &Gateway, prompt: Prompt) -> Result<axum::Json<Prompt>, Error> {
    if prompt.state.is_terminal() {
        return Ok(axum::Json(prompt));
    }
    Ok(axum::Json(gateway.queue().cancel_prompt(prompt.id, now()).await?))
}
