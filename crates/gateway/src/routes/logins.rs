//! Logins of assistants: the worker that holds a workspace does them; what is known of them is the store's.

use crate::{
    Error, Gateway,
    api::{EventsQuery, ListQuery},
    auth::Acting,
    extract::{At, Json, Query, WorkspaceRef, last_seen, page},
    gateway::now,
    login_feed,
    routes::workspaces,
};
use aetherium_model::{
    LoginId,
    assistant::AssistantName,
    login::{Credentials, Login, StartLogin, SubmitCallback, SubmitCode},
    page::Page,
    worker::Worker,
    workspace::Workspace,
};
use axum::{extract::State, response::Response};
use http::{HeaderMap, StatusCode};

/// Log an assistant in
///
/// Starts the assistant's own login in the workspace's VM, which is started or woken for it. The login is
/// `waiting` once there is an address to open, and `succeeded` once its credentials are stored for every
/// workspace of the project. One at a time of each assistant in a workspace (409).
#[utoipa::path(
    post, path = "/api/v1/workspaces/{workspace}/logins", tag = "logins", request_body = StartLogin,
    params(("workspace" = String, Path, description = "The workspace's id or name.")),
    responses((status = 202, body = Login))
)]
pub(crate) async fn start(
    Acting(gateway): Acting,
    At(given): At<WorkspaceRef>,
    Json(body): Json<StartLogin>,
) -> Result<(StatusCode, axum::Json<Login>), Error> {
    let (workspace, worker) = place(&gateway, given).await?;
    let login = gateway.workers().start_login(&worker, workspace.id, &body).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(login)))
}

/// List a workspace's logins
///
/// Newest first: those under way, and the last that are over.
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/logins", tag = "logins",
    params(("workspace" = String, Path, description = "The workspace's id or name."), ListQuery),
    responses((status = 200, body = Page<Login>))
)]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    At(given): At<WorkspaceRef>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<Login>>, Error> {
    let page = page(query.limit, query.cursor)?;
    let workspace = workspaces::find(&gateway, given).await?;
    Ok(axum::Json(gateway.store().logins(workspace.id, &page).await?))
}

/// Get a login
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/logins/{login}", tag = "logins",
    params(
        ("workspace" = String, Path, description = "The workspace's id or name."),
        ("login" = LoginId, Path, description = "The login's id."),
    ),
    responses((status = 200, body = Login))
)]
pub(crate) async fn get(
    State(gateway): State<Gateway>,
    At(given): At<WorkspaceRef>,
    At(id): At<LoginId>,
) -> Result<axum::Json<Login>, Error> {
    let workspace = workspaces::find(&gateway, given).await?;
    Ok(axum::Json(gateway.store().login(workspace.id, id).await?))
}

/// Follow a login
///
/// Server-sent events, named after the state and numbered by the revision: the login as it is, and as it
/// then changes, until it is over. Of changes in quick succession the last one is told. Resumes after the
/// number in Last-Event-ID, or in `after`; 204 when there is nothing more to come.
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/logins/{login}/events", tag = "logins",
    params(
        ("workspace" = String, Path, description = "The workspace's id or name."),
        ("login" = LoginId, Path, description = "The login's id."),
        ("Last-Event-ID" = Option<i64>, Header, description = "The number of the last event already seen."),
        EventsQuery,
    ),
    responses(
        (status = 200, body = Login, content_type = "text/event-stream"),
        (status = 204, description = "The login is over, and its last event was seen."),
    )
)]
pub(crate) async fn events(
    State(gateway): State<Gateway>,
    At(given): At<WorkspaceRef>,
    At(id): At<LoginId>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let seen = last_seen(&headers, query.after)?;
    let workspace = workspaces::find(&gateway, given).await?;
    login_feed::serve(gateway, workspace.id, id, seen).await
}

/// Give a login its code
///
/// The code that the browser shows, for a login that `accepts` one and is `waiting`. It is typed into the
/// assistant's terminal, and not kept.
#[utoipa::path(
    post, path = "/api/v1/workspaces/{workspace}/logins/{login}/code", tag = "logins",
    request_body = SubmitCode,
    params(
        ("workspace" = String, Path, description = "The workspace's id or name."),
        ("login" = LoginId, Path, description = "The login's id."),
    ),
    responses((status = 200, body = Login))
)]
pub(crate) async fn code(
    Acting(gateway): Acting,
    At(given): At<WorkspaceRef>,
    At(id): At<LoginId>,
    Json(body): Json<SubmitCode>,
) -> Result<axum::Json<Login>, Error> {
    let (workspace, worker) = place(&gateway, given).await?;
    let given = gateway.workers().submit_login(&worker, workspace.id, id, "code", &body);
    Ok(axum::Json(given.await?))
}

/// Give a login its callback
///
/// The address that the browser was sent to at the end, for a login that `accepts` one and is `waiting`:
/// `http://localhost:PORT/…`, as the address bar has it. It is asked of the assistant's own server in the
/// workspace's VM, and not kept.
#[utoipa::path(
    post, path = "/api/v1/workspaces/{workspace}/logins/{login}/callback", tag = "logins",
    request_body = SubmitCallback,
    params(
        ("workspace" = String, Path, description = "The workspace's id or name."),
        ("login" = LoginId, Path, description = "The login's id."),
    ),
    responses((status = 200, body = Login))
)]
pub(crate) async fn callback(
    Acting(gateway): Acting,
    At(given): At<WorkspaceRef>,
    At(id): At<LoginId>,
    Json(body): Json<SubmitCallback>,
) -> Result<axum::Json<Login>, Error> {
    let (workspace, worker) = place(&gateway, given).await?;
    let given = gateway.workers().submit_login(&worker, workspace.id, id, "callback", &body);
    Ok(axum::Json(given.await?))
}

/// Cancel a login
///
/// Ends the assistant's program. One that is over stays as it is.
#[utoipa::path(
    delete, path = "/api/v1/workspaces/{workspace}/logins/{login}", tag = "logins",
    params(
        ("workspace" = String, Path, description = "The workspace's id or name."),
        ("login" = LoginId, Path, description = "The login's id."),
    ),
    responses((status = 200, body = Login))
)]
pub(crate) async fn cancel(
    Acting(gateway): Acting,
    At(given): At<WorkspaceRef>,
    At(id): At<LoginId>,
) -> Result<axum::Json<Login>, Error> {
    let (workspace, worker) = place(&gateway, given).await?;
    let login = gateway.store().login(workspace.id, id).await?;
    if login.state.is_over() {
        return Ok(axum::Json(login));
    }
    Ok(axum::Json(gateway.workers().cancel_login(&worker, workspace.id, id).await?))
}

/// Who is logged in
///
/// The assistants whose credentials are stored for the project, by name. Nothing shows what they are.
#[utoipa::path(
    get, path = "/api/v1/logins", tag = "logins",
    responses((status = 200, body = Vec<Credentials>))
)]
pub(crate) async fn credentials(
    Acting(gateway): Acting,
) -> Result<axum::Json<Vec<Credentials>>, Error> {
    Ok(axum::Json(gateway.store().credentials().await?))
}

/// Log an assistant out
///
/// Forgets its credentials. Workspaces that had them keep their files until they are deleted, but no
/// other gets them.
#[utoipa::path(
    delete, path = "/api/v1/logins/{assistant}", tag = "logins",
    params(("assistant" = AssistantName, Path, description = "The assistant's name.")),
    responses((status = 204, description = "They are forgotten."))
)]
pub(crate) async fn forget(
    Acting(gateway): Acting,
    At(assistant): At<AssistantName>,
) -> Result<StatusCode, Error> {
    gateway.store().forget_credentials(&assistant, now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn place(gateway: &Gateway, given: WorkspaceRef) -> Result<(Workspace, Worker), Error> {
    let workspace = workspaces::find(gateway, given).await?;
    let worker = gateway.store().worker(workspace.worker_id).await?;
    Ok((workspace, worker))
}
