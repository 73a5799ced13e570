//! The API socket: one request after the other, answered as Firecracker's `micro_http` does.

use crate::{
    args::Serve,
    fault::Faults,
    files,
    log::Log,
    machine::{Machine, Temper},
    refusal::Refusal,
    rules,
    settings::Settings,
    version::Version,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    net::UnixListener,
    sync::{Mutex, Notify},
    task::JoinSet,
};

/// Firecracker's own limit for a request's body, in bytes (`HTTP_MAX_PAYLOAD_SIZE`).
const MAX_BODY: usize = 51_200;
/// How long the last answer may take to be sent.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What the requests share. The lock makes them come one after the other.
struct Shared {
    inner: Mutex<Inner>,
    log: Arc<Log>,
    version: Version,
    /// Told when a refusal was the end.
    fatal: Notify,
}

struct Inner {
    machine: Machine,
    faults: Faults,
}

/// Serves until the guest is over. An error is what Firecracker would end with.
pub(crate) async fn run(settings: Settings, serve: Serve, log: Arc<Log>) -> Result<(), String> {
    let mut faults = Faults::new(settings.faults);
    if let Some(Err(refusal)) = faults.strike(&["start".to_owned()]).await {
        return Err(refusal.message);
    }
    let version = settings.version;
    let open = |path: &std::path::PathBuf| files::open_output(path, version);
    let file = serve.log.as_ref().map(open).transpose();
    let file =
        file.map_err(|error| format!("LoggerInitialization(LoggerUpdateError({error:?}))"))?;
    if let Some(file) = file {
        log.redirect(file);
    }
    log.line("main", &format!("Running Firecracker v{version}"));
    let metrics = serve.metrics.as_ref().map(open).transpose();
    let metrics = metrics.map_err(|e| {
        format!("MetricsInitialization(InitializationFailure({:?}))", e.to_string())
    })?;
    let listener = UnixListener::bind(&serve.api_socket)
        .map_err(|_| format!("RunWithApi(FailedToBindSocket({:?}))", serve.api_socket))?;
    log.line("main", &format!("Listening on API socket ({:?}).", serve.api_socket));
    let over = Arc::new(Notify::new());
    let temper =
        Temper { version, agent: settings.agent, guest: settings.guest, vsock: settings.vsock };
    let machine = Machine::new(temper, &serve, metrics, log.clone(), over.clone())
        .map_err(|error| error.to_string())?;
    let shared = Arc::new(Shared {
        inner: Mutex::new(Inner { machine, faults }),
        log: log.clone(),
        version,
        fatal: Notify::new(),
    });
    log.line("fc_api", "API server started.");
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.map_err(|error| error.to_string())?;
                let shared = shared.clone();
                let service = service_fn(move |request| answer(shared.clone(), request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move {
                    // A caller that hangs up is no matter.
                    let _ = connection.await;
                });
            }
            Some(_) = connections.join_next() => {}
            () = over.notified() => {
                log.line("main", "Vmm is stopping.");
                return Ok(());
            }
            () = shared.fatal.notified() => {
                // The refusal is still to be sent.
                let all = async { while connections.join_next().await.is_some() {} };
                let _ = tokio::time::timeout(LAST_WORDS, all).await;
                return Err("RunWithApi(BuildMicroVmError(Restore))".to_owned());
            }
        }
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        let too_long = Refusal {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            message: format!("Request payload with size over {MAX_BODY}."),
            fatal: false,
        };
        return Ok(refused(&too_long));
    };
    let body = body.to_bytes();
    let said = String::from_utf8_lossy(&body);
    let message = format!(
        "The API server received a {} request on {path:?} with body {said:?}.",
        head.method
    );
    shared.log.line("fc_api", &message);
    let mut inner = shared.inner.lock().await;
    let outcome = match inner.faults.strike(&names(head.method.as_str(), path, &body)).await {
        Some(Ok(garbage)) => return Ok(with_body(StatusCode::OK, garbage)),
        Some(Err(refusal)) => Err(refusal),
        None => match rules::check(&head.method, path, &body, shared.version) {
            Ok(call) => inner.machine.perform(call).await,
            Err(refusal) => Err(refusal),
        },
    };
    let response = match outcome {
        Ok(Some(value)) => with_body(StatusCode::OK, value.to_string().into()),
        Ok(None) => with_body(StatusCode::NO_CONTENT, Bytes::new()),
        Err(refusal) => {
            let message = format!(
                "Received Error. Status code: {}. Message: {}",
                refusal.status, refusal.message
            );
            shared.log.line("fc_api", &message);
            if refusal.fatal {
                shared.fatal.notify_one();
            }
            refused(&refusal)
        }
    };
    Ok(response)
}

/// The names under which a fault may be meant for a call.
fn names(method: &str, path: &str, body: &[u8]) -> Vec<String> {
    let call = format!("{method} {path}");
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let asked = ["action_type", "state"].iter().find_map(|field| body[field].as_str());
    let precise = asked.map(|what| format!("{call} {what}"));
    [Some(call), precise].into_iter().flatten().collect()
}

fn refused(refusal: &Refusal) -> Response<Full<Bytes>> {
    let mut response =
        with_body(refusal.status, json!({ "fault_message": refusal.message }).to_string().into());
    if refusal.fatal {
        let close = header::HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

fn with_body(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let has_body = !body.is_empty();
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::SERVER, header::HeaderValue::from_static("Firecracker API"));
    if has_body {
        let json = header::HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
    }
    response
}
