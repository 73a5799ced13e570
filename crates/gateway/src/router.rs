//! The routes put together with their layers, and their description.

use crate::{
    Error, Gateway, Problem, auth, edge, ready,
    routes::{
        assistants, disks, environments, events, executions, hibernation, preparation, projects,
        prompts, secrets, status, task_events, tasks, templates, vms, webhooks, workers,
        workspaces,
    },
};
use aetherium_model::interactive::{ClientFrame, Open, ServerFrame};
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderValue, header};
use std::sync::LazyLock;
use utoipa::openapi::{
    Content, OpenApi, Ref, RefOr, Response as ResponseDoc,
    security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// The service: every route, with authentication, limits, problems and the access log.
pub fn router(gateway: Gateway) -> Router {
    let state = gateway.clone();
    let deadline = from_fn_with_state(gateway.clone(), within_deadline);
    let edge = from_fn_with_state(gateway.metrics().clone(), edge::edge);
    let key = from_fn_with_state(gateway, auth::require_key);
    let (api, _) = prompt_routes().layer(deadline).merge(patient_routes()).split_for_parts();
    api.fallback(no_route)
        .method_not_allowed_fallback(no_method)
        // The JSON extractor has its own, smaller limit.
        .layer(DefaultBodyLimit::disable())
        .layer(key)
        .layer(edge)
        .with_state(state)
}

/// The API's description, OpenAPI 3.1, made from the handlers.
pub fn openapi() -> OpenApi {
    let mut document = preface();
    document.merge(prompt_routes().merge(patient_routes()).into_openapi());
    let problem = || {
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        let mut doc = ResponseDoc::new("The request cannot be answered as asked.");
        doc.content.insert("application/problem+json".to_owned(), RefOr::T(content));
        RefOr::T(doc)
    };
    for (path, item) in &mut document.paths.paths {
        let operations =
            [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            // Handlers are named within their file, operations within the whole API.
            let tag = operation.tags.iter().flatten().next();
            let name = tag.zip(operation.operation_id.as_ref());
            operation.operation_id = name.map(|(tag, name)| format!("{tag}_{name}"));
            if !auth::OPEN.contains(&path.as_str()) {
                operation.responses.responses.insert("default".to_owned(), problem());
            }
        }
    }
    document
}

/// What answers from what is at hand, and so within the deadline; streams only begin within it.
fn prompt_routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::default()
        .routes(routes!(ready::health))
        .routes(routes!(ready::ready))
        .routes(routes!(description))
        .routes(routes!(status::get))
        .routes(routes!(workspaces::list))
        .routes(routes!(workspaces::get, workspaces::delete))
        .routes(routes!(disks::get))
        .routes(routes!(assistants::list))
        .routes(routes!(assistants::get))
        .routes(routes!(prompts::list, prompts::create))
        .routes(routes!(prompts::get))
        .routes(routes!(prompts::cancel))
        .routes(routes!(prompts::events))
        .routes(routes!(prompts::output))
        .routes(routes!(prompts::get_short))
        .routes(routes!(prompts::cancel_short))
        .routes(routes!(prompts::events_short))
        .routes(routes!(prompts::output_short))
        .routes(routes!(vms::list))
        .routes(routes!(vms::get, vms::delete))
        .routes(routes!(vms::ttl))
        .routes(routes!(vms::executions))
        .routes(routes!(vms::console))
        .routes(routes!(vms::exec))
        .routes(routes!(preparation::exec))
        .routes(routes!(executions::get))
        .routes(routes!(executions::events))
        .routes(routes!(executions::output))
        .routes(routes!(events::list))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::get))
        .routes(routes!(tasks::cancel))
        .routes(routes!(tasks::requeue))
        .routes(routes!(task_events::events))
        .routes(routes!(preparation::prepare))
        .routes(routes!(templates::list, templates::create))
        .routes(routes!(templates::get, templates::delete))
        .routes(routes!(workers::list))
        .routes(routes!(workers::get))
        .routes(routes!(environments::list, environments::create))
        .routes(routes!(environments::get, environments::replace, environments::delete))
        .routes(routes!(environments::versions))
        .routes(routes!(environments::version))
        .routes(routes!(webhooks::list, webhooks::create))
        .routes(routes!(webhooks::get, webhooks::change, webhooks::delete))
        .routes(routes!(webhooks::deliveries))
        .routes(routes!(webhooks::redeliver))
        .routes(routes!(secrets::list, secrets::put))
        .routes(routes!(secrets::delete))
        .routes(routes!(secrets::list_own, secrets::put_own))
        .routes(routes!(secrets::delete_own))
        .routes(routes!(projects::get))
        .routes(routes!(projects::limit))
        .routes(routes!(workers::cordon))
        .routes(routes!(workers::drain))
        .routes(routes!(workers::activate))
}

/// What waits for a command to end, for work on a disk, or for room, whose own timeout is its deadline.
fn patient_routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::default()
        .routes(routes!(workspaces::create))
        .routes(routes!(vms::create))
        .routes(routes!(vms::execute))
        .routes(routes!(vms::pause))
        .routes(routes!(vms::resume))
        .routes(routes!(vms::snapshot))
        .routes(routes!(hibernation::hibernate))
        .routes(routes!(hibernation::wake))
        .routes(routes!(preparation::execute))
        .routes(routes!(disks::grow))
        .routes(routes!(disks::export))
        .routes(routes!(disks::snapshot))
        .routes(routes!(disks::remove_snapshot))
        .routes(routes!(disks::restore))
        .routes(routes!(vms::change))
        .routes(routes!(vms::metrics))
}

/// Get this description
#[utoipa::path(
    get, path = "/api/v1/openapi.json", tag = "service",
    responses((status = 200, description = "The API's description, OpenAPI 3.1.", content_type = "application/json"))
)]
async fn description() -> Response {
    static DOCUMENT: LazyLock<Result<Bytes, String>> = LazyLock::new(|| {
        serde_json::to_vec(&openapi()).map(Bytes::from).map_err(|error| error.to_string())
    });
    match &*DOCUMENT {
        Ok(json) => {
            let kind = HeaderValue::from_static("application/json");
            ([(header::CONTENT_TYPE, kind)], json.clone()).into_response()
        }
        Err(error) => Error::Defect(error.clone()).into_response(),
    }
}

fn preface() -> OpenApi {
    use utoipa::OpenApi as _;
    #[derive(utoipa::OpenApi)]
    #[openapi(
        info(
            title = "Aetherium",
            description = "Runs AI agents and untrusted commands in microVMs.\n\nEvery route but `/health` and `/ready` needs an API key. Every failure is a problem (RFC 9457) with a stable `code`. Lists are newest first and paged by `cursor`.",
        ),
        components(schemas(Problem, Open, ClientFrame, ServerFrame)),
        security(("bearer" = []), ("api_key" = [])),
        tags(
            (name = "workspaces", description = "What users own; they outlive their VMs."),
            (name = "environments", description = "What workspaces are made from, in versions."),
            (name = "disks", description = "Workspaces' disks, which outlive their VMs."),
            (name = "prompts", description = "Requests to a workspace's assistant, run in order."),
            (name = "vms", description = "MicroVMs."),
            (name = "executions", description = "Commands in a VM."),
            (name = "tasks", description = "The durable work behind what was taken on."),
            (name = "events", description = "What happened, to what, why and by whom."),
            (name = "templates", description = "What VMs start from."),
            (name = "assistants", description = "What answers prompts."),
            (name = "webhooks", description = "Addresses that are told of events."),
            (name = "secrets", description = "What commands get without its being written down."),
            (name = "projects", description = "Who shares a quota."),
            (name = "workers", description = "The hosts that own VMs."),
            (name = "service", description = "The gateway itself."),
        ),
    )]
    struct Preface;
    let mut document = Preface::openapi();
    let components = document.components.get_or_insert_default();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let header = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")));
    components.add_security_scheme("api_key", header);
    document
}

async fn within_deadline(State(gateway): State<Gateway>, request: Request, next: Next) -> Response {
    let limit = gateway.config().request_timeout;
    tokio::time::timeout(limit, next.run(request))
        .await
        .unwrap_or_else(|_| Error::Deadline(limit).into_response())
}

async fn no_route(request: Request) -> Error {
    Error::NoRoute { path: request.uri().path().chars().take(200).collect() }
}

async fn no_method(request: Request) -> Error {
    let path = request.uri().path().chars().take(200).collect();
    Error::MethodNotAllowed { path, method: request.method().clone() }
}
