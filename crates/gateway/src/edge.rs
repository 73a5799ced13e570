//! The outermost layer: every request gets an id, every response carries it, every failure becomes
//! a problem, every panic is caught, and each request leaves one line in the access log.
//!
//! The log has neither bodies, nor query strings, nor keys.

use crate::{
    Error,
    metrics::GatewayMetrics,
    problem::{self, Draft},
};
use aetherium_model::{Code, Fault};
use aetherium_telemetry::within;
use axum::{
    RequestExt as _,
    extract::{MatchedPath, RawPathParams, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use std::{any::Any, panic::AssertUnwindSafe, time::Instant};
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Where a request's id is given and answered.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest path and query, in bytes.
const MAX_URI_BYTES: usize = 8 * 1024;

const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// The id of a request, for handlers that pass it on.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) HeaderValue);

pub(crate) async fn edge(
    State(metrics): State<GatewayMetrics>,
    mut request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let _in_progress = metrics.begin();
    let id = request_id(request.headers());
    let id_text = id.to_str().unwrap_or_default().to_owned();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    request.extensions_mut().insert(RequestId(id.clone()));

    let span = tracing::info_span!(
        "request",
        request_id = id_text,
        trace_id = Empty,
        workspace = Empty,
        prompt = Empty,
        vm = Empty,
        task = Empty,
        execution = Empty,
        worker = Empty,
    );
    let parent = aetherium_telemetry::parent_of(request.headers());
    let too_long = request.uri().to_string().len() > MAX_URI_BYTES;
    let answer = async {
        if too_long {
            let detail = format!("the path and query are longer than {MAX_URI_BYTES} bytes");
            return Error::Malformed(detail).into_response();
        }
        note_ids(&mut request).await;
        AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(panicked)
    };
    let placed = async { (answer.await, aetherium_telemetry::here()) };
    let (response, here) = within(span.clone(), parent, placed).await;
    span.set_attribute("http.request.method", method.to_string());
    span.set_attribute("http.route", route.as_ref().map_or("-", MatchedPath::as_str).to_owned());
    span.set_attribute("http.response.status_code", i64::from(response.status().as_u16()));

    let mut response = as_problem(response, &id_text);
    response.headers_mut().insert(REQUEST_ID, id);
    // What a guest wrote is text, whatever a browser would like to make of it.
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    let took = began.elapsed();
    metrics.answered(route.as_ref(), &method, response.status(), took);
    tracing::info!(
        target: "aetherium::access",
        request_id = id_text,
        trace_id = here.map(|here| tracing::field::display(here.trace_id)),
        %method,
        route = route.as_ref().map_or("-", MatchedPath::as_str),
        status = response.status().as_u16(),
        latency_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    );
    response
}

/// Notes in the log what the path names, where it may be an id or a workspace's name.
async fn note_ids(request: &mut Request) {
    let Ok(named) = request.extract_parts::<RawPathParams>().await else { return };
    for (field, value) in &named {
        if value.len() <= 64
            && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        {
            // What the span has no field for is left out.
            Span::current().record(field, value);
        }
    }
}

/// The id the caller gave if it is safe in logs and headers, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let sane = |value: &&HeaderValue| {
        (1..=128).contains(&value.len())
            && value.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
    };
    headers.get(REQUEST_ID).filter(sane).cloned().unwrap_or_else(|| {
        let text = format!("req_{}", ulid::Ulid::generate().to_string().to_ascii_lowercase());
        // Letters, digits and an underscore are always a header's value.
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("req_unknown"))
    })
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned());
    Error::Defect(format!("a handler panicked: {text}")).into_response()
}

/// Renders what a handler drafted. An error that some library answered by itself becomes a problem
/// too, by its status; documents that speak for themselves (JSON) pass.
fn as_problem(mut response: Response, request_id: &str) -> Response {
    let status = response.status();
    let draft = response.extensions_mut().remove::<Draft>();
    if draft.is_none() && !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let draft = match draft {
        Some(draft) => draft,
        None if is_json(&response) => return response,
        None => Draft { fault: foreign(status), errors: Vec::new() },
    };
    let mut rendered = draft.render(request_id);
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        rendered.headers_mut().insert(header::ALLOW, allow);
    }
    rendered
}

fn is_json(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind == problem::CONTENT_TYPE || kind == "application/json")
}

/// The fault of an error response without one, by its status.
fn foreign(status: StatusCode) -> Fault {
    let code = Code::ALL.iter().copied().find(|code| problem::status(*code) == status);
    match code.filter(|_| status.is_client_error()) {
        Some(code) => Fault::new(code, status.canonical_reason().unwrap_or("refused")),
        None if status.is_client_error() => {
            Fault::new(Code::MalformedRequest, format!("the request was refused with {status}"))
        }
        None => Fault::internal(format!("a response with {status} and no problem")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_that_could_forge_a_log_line_is_replaced() {
        let given = |value: &[u8]| {
            let value = HeaderValue::from_bytes(value).unwrap();
            request_id(&HeaderMap::from_iter([(REQUEST_ID, value)]))
        };
        assert_eq!(given(b"abc-1.2_3"), "abc-1.2_3");
        for bad in [&b"a b"[..], b"", &[b'x'; 129], b"a\tb", "ä".as_bytes(), b"a=\"b\""] {
            let id = given(bad);
            assert!(id.to_str().unwrap().starts_with("req_"), "{id:?}");
        }
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_a_problem_without_its_words() {
        use axum::{Router, body::Body, middleware::from_fn_with_state, routing::get};
        use tower::ServiceExt as _;
        async fn panics() {
            panic!("the secret is {}", 42)
        }
        let router = Router::new()
            .route("/", get(panics))
            .layer(from_fn_with_state(GatewayMetrics::default(), edge));
        let response = router.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let id = response.headers()[REQUEST_ID].clone();
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let problem: crate::Problem = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (problem.code, problem.request_id.as_str()),
            (Code::Internal, id.to_str().unwrap())
        );
        assert!(!problem.detail.contains("secret"), "{problem:?}");
    }

    #[tokio::test]
    async fn an_error_that_a_library_answered_by_itself_becomes_a_problem() {
        use axum::{Router, body::Body, middleware::from_fn_with_state, routing::get};
        use tower::ServiceExt as _;
        for (status, code) in [
            (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large"),
            (StatusCode::IM_A_TEAPOT, "malformed_request"),
            (StatusCode::BAD_GATEWAY, "internal"),
            (StatusCode::INSUFFICIENT_STORAGE, "internal"),
        ] {
            let answer = move || async move { (status, "plain text") };
            let router = Router::new()
                .route("/", get(answer))
                .layer(from_fn_with_state(GatewayMetrics::default(), edge));
            let response = router.oneshot(Request::new(Body::empty())).await.unwrap();
            let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
            let problem: crate::Problem = serde_json::from_slice(&body).unwrap();
            assert_eq!(problem.code.as_str(), code);
        }
    }
}
