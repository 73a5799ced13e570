//! The client of a worker's internal API: HTTP/1.1 over the address in its row. Over a network every
//! request carries a pass of its own.
//!
//! Connections are kept alive and shared, so that a request costs no dial; a WebSocket gets a
//! connection of its own. Every call has a deadline. A worker's own fault passes through as it is;
//! one that cannot be reached is `unavailable`.

mod disks;
mod rest;

pub(crate) use disks::DiskVerb;
pub(crate) use rest::Rest;

use crate::{
    gateway::now,
    wire::{Address, Connector},
};
use aetherium_model::{
    Code, Fault, TemplateRef, VmId,
    finding::Finding,
    interactive::Captured,
    limits::DEFAULT_TIMEOUT,
    metrics::VmMetrics,
    pass::{Asked, FleetKey},
    run::Command,
    template::Template,
    vm::{ChangeVm, TakeSnapshot, Vm},
    worker::Worker,
};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use serde::de::DeserializeOwned;
use std::{fmt::Write as _, time::Duration};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

/// Reading what a worker knows already.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Writing a VM's memory and copying its disk.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);
/// Stopping a VM's CPUs, waiting for its agent once they go on, or asking its VMM for a few other
/// things: the worker's own deadlines, and some more.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(45);
/// What a command's own timeout, enforced in the guest, may be late by.
const EXECUTE_GRACE: Duration = Duration::from_secs(30);
/// The largest answer: two outputs at their limit, with every byte escaped, fit.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;
/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How many unused connections to a worker are kept.
const MAX_IDLE: usize = 8;

/// What can be done to a VM that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freeze {
    /// Stop its CPUs.
    Pause,
    /// Let it go on.
    Resume,
}

impl Freeze {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }
}

/// Speaks to every worker; cheap to clone.
#[derive(Clone)]
pub(crate) struct WorkerClient {
    pool: Client<Connector, Full<Bytes>>,
    /// For passes; without it only workers of this machine can be asked.
    key: Option<FleetKey>,
}

impl WorkerClient {
    pub(crate) fn new(key: Option<FleetKey>) -> Self {
        let pool = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE)
            .pool_timer(TokioTimer::new())
            .build(Connector);
        Self { pool, key }
    }

    /// Runs a command to its end and returns what it wrote.
    pub(crate) async fn execute(
        &self,
        worker: &Worker,
        vm: VmId,
        command: &Command,
        request_id: &HeaderValue,
    ) -> Result<Captured, Fault> {
        let path = format!("/internal/v1/vms/{vm}/execute");
        self.run(worker, &path, EXECUTE_GRACE, command, request_id).await
    }

    /// Runs a command at `path`, which may take its own time and so much more until it runs.
    async fn run(
        &self,
        worker: &Worker,
        path: &str,
        grace: Duration,
        command: &Command,
        request_id: &HeaderValue,
    ) -> Result<Captured, Fault> {
        let own = command.timeout_ms.map_or(DEFAULT_TIMEOUT, Duration::from_millis);
        let body = serde_json::to_vec(command).map_err(Fault::internal)?;
        let mut request = self.request(worker, Method::POST, path, body.into())?;
        request.headers_mut().insert(header::CONTENT_TYPE, JSON);
        request.headers_mut().insert(crate::edge::REQUEST_ID, request_id.clone());
        let answer = self.call(worker, request, own.saturating_add(grace)).await?;
        parse(worker, &answer)
    }

    /// The last `tail_bytes` of a VM's console, or all that is kept of it.
    pub(crate) async fn console(
        &self,
        worker: &Worker,
        vm: VmId,
        tail_bytes: Option<u64>,
    ) -> Result<Bytes, Fault> {
        let mut path = format!("/internal/v1/vms/{vm}/console");
        if let Some(bytes) = tail_bytes {
            let _ = write!(path, "?tail_bytes={bytes}");
        }
        let request = self.request(worker, Method::GET, &path, Bytes::new())?;
        self.call(worker, request, READ_TIMEOUT).await
    }

    /// Freezes a VM, or lets it go on, and returns it as it then is.
    pub(crate) async fn freeze(&self, worker: &Worker, vm: VmId, how: Freeze) -> Result<Vm, Fault> {
        let path = format!("/internal/v1/vms/{vm}/{}", how.as_str());
        let request = self.request(worker, Method::POST, &path, Bytes::new())?;
        let answer = self.call(worker, request, FREEZE_TIMEOUT).await?;
        parse(worker, &answer)
    }

    /// Has a snapshot taken of a VM, and returns the VM.
    pub(crate) async fn snapshot(
        &self,
        worker: &Worker,
        vm: VmId,
        body: &TakeSnapshot,
    ) -> Result<Vm, Fault> {
        let json = serde_json::to_vec(body).map_err(Fault::internal)?;
        let path = format!("/internal/v1/vms/{vm}/snapshot");
        let mut request = self.request(worker, Method::POST, &path, json.into())?;
        request.headers_mut().insert(header::CONTENT_TYPE, JSON);
        let answer = self.call(worker, request, SNAPSHOT_TIMEOUT).await?;
        parse(worker, &answer)
    }

    /// Changes what a VM takes of its host, and returns it as it then is.
    pub(crate) async fn change(
        &self,
        worker: &Worker,
        vm: VmId,
        body: &ChangeVm,
    ) -> Result<Vm, Fault> {
        let json = serde_json::to_vec(body).map_err(Fault::internal)?;
        let path = format!("/internal/v1/vms/{vm}");
        let mut request = self.request(worker, Method::PATCH, &path, json.into())?;
        request.headers_mut().insert(header::CONTENT_TYPE, JSON);
        let answer = self.call(worker, request, FREEZE_TIMEOUT).await?;
        parse(worker, &answer)
    }

    /// What a VM uses.
    pub(crate) async fn metrics(&self, worker: &Worker, vm: VmId) -> Result<VmMetrics, Fault> {
        let path = format!("/internal/v1/vms/{vm}/metrics");
        let request = self.request(worker, Method::GET, &path, Bytes::new())?;
        let answer = self.call(worker, request, FREEZE_TIMEOUT).await?;
        parse(worker, &answer)
    }

    /// The templates it holds.
    pub(crate) async fn templates(&self, worker: &Worker) -> Result<Vec<Template>, Fault> {
        self.read(worker, "/internal/v1/templates").await
    }

    /// One template, as it holds it.
    pub(crate) async fn template(
        &self,
        worker: &Worker,
        wanted: &TemplateRef,
    ) -> Result<Template, Fault> {
        self.read(worker, &format!("/internal/v1/templates/{wanted}")).await
    }

    /// Has it take a template's tag away, and returns what that pointed to.
    pub(crate) async fn remove_template(
        &self,
        worker: &Worker,
        wanted: &TemplateRef,
    ) -> Result<Template, Fault> {
        let path = format!("/internal/v1/templates/{wanted}");
        let request = self.request(worker, Method::DELETE, &path, Bytes::new())?;
        let answer = self.call(worker, request, READ_TIMEOUT).await?;
        parse(worker, &answer)
    }

    /// What its own checks find, now.
    pub(crate) async fn health(&self, worker: &Worker) -> Result<Vec<Finding>, Fault> {
        self.read(worker, "/internal/v1/health").await
    }

    async fn read<T: DeserializeOwned>(&self, worker: &Worker, path: &str) -> Result<T, Fault> {
        let request = self.request(worker, Method::GET, path, Bytes::new())?;
        let answer = self.call(worker, request, READ_TIMEOUT).await?;
        parse(worker, &answer)
    }

    async fn call(
        &self,
        worker: &Worker,
        request: Request<Full<Bytes>>,
        within: Duration,
    ) -> Result<Bytes, Fault> {
        let deadline = Instant::now() + within;
        let path = request.uri().path().to_owned();
        let late = |_| {
            let detail = format!("worker {} did not answer {path} within {within:?}", worker.id);
            Fault::new(Code::DeadlineExceeded, detail).remedy("read the worker's log")
        };
        let response = timeout_at(deadline, self.pool.request(request)).await.map_err(late)?;
        let response = response.map_err(|error| unreachable(worker, &error))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect();
        let body = timeout_at(deadline, body).await.map_err(late)?.map_err(|error| {
            let detail = format!("worker {} broke off its answer to {path}: {error}", worker.id);
            Fault::new(Code::Unavailable, detail)
                .remedy("what was asked for may have been done: look before repeating it")
        })?;
        let body = body.to_bytes();
        if parts.status == StatusCode::OK {
            Ok(body)
        } else {
            Err(refusal(worker, parts.status, &body))
        }
    }

    /// Asks the worker to upgrade a connection of its own, for `headers` of the client's request.
    ///
    /// The response has status 101 and can be upgraded.
    pub(crate) async fn upgrade(
        &self,
        worker: &Worker,
        path: &str,
        headers: http::HeaderMap,
    ) -> Result<Response<Incoming>, Fault> {
        let deadline = Instant::now() + READ_TIMEOUT;
        let late = |_| {
            let detail =
                format!("worker {} did not answer {path} within {READ_TIMEOUT:?}", worker.id);
            Fault::new(Code::DeadlineExceeded, detail).remedy("read the worker's log")
        };
        let address = Address::of(worker)?;
        let stream = address.dial().await.map_err(|error| unreachable(worker, &error))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = timeout_at(deadline, handshake)
            .await
            .map_err(late)?
            .map_err(|error| unreachable(worker, &error))?;
        let driver = AbortOnDropHandle::new(tokio::spawn(connection.with_upgrades()));
        let mut request = self.request(worker, Method::GET, path, Bytes::new())?;
        *request.uri_mut() = Uri::try_from(path).map_err(Fault::internal)?;
        request.headers_mut().extend(headers);
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("worker"));
        let response = timeout_at(deadline, sender.send_request(request))
            .await
            .map_err(late)?
            .map_err(|error| unreachable(worker, &error))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // It ends by itself as soon as it has handed the connection over.
            drop(driver.detach());
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, 1024 * 1024).collect();
        let body = timeout_at(deadline, body).await.map_err(late)?;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Err(refusal(worker, parts.status, &body))
    }
}

impl WorkerClient {
    /// A request to `path` of the worker, with what makes the worker admit it.
    fn request(
        &self,
        worker: &Worker,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Fault> {
        let address = Address::of(worker)?;
        let uri = format!("http://{}{path}", address.authority());
        let mut request = Request::builder().method(method.clone()).uri(uri);
        if let Some(here) = aetherium_telemetry::here() {
            request = request.header(aetherium_telemetry::TRACEPARENT, here.to_string());
        }
        if let Address::Network(_) = address {
            let key = self.key.as_ref().ok_or_else(|| {
                let detail = format!("worker {} is on another machine and wants a pass", worker.id);
                Fault::new(Code::Unavailable, detail)
                    .remedy("start the gateway with the fleet's key: --fleet-key-file")
            })?;
            let asked = Asked { worker: worker.id, method: method.as_str(), path };
            request =
                request.header(header::AUTHORIZATION, format!("Pass {}", key.pass(asked, now())));
        }
        request.body(Full::new(body)).map_err(Fault::internal)
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn unreachable(worker: &Worker, error: &dyn std::error::Error) -> Fault {
    let mut detail = format!("worker {} on {} cannot be reached", worker.id, worker.hostname);
    let mut cause = Some(error);
    while let Some(error) = cause {
        let _ = write!(detail, ": {error}");
        cause = error.source();
    }
    Fault::new(Code::Unavailable, detail)
        .remedy("see that the worker runs and that its address can be reached, and read its log")
}

/// What a worker answered instead of 200: its fault, or words of our own around the status.
fn refusal(worker: &Worker, status: StatusCode, body: &[u8]) -> Fault {
    if status == StatusCode::UNAUTHORIZED {
        // The client's key is good: it is this gateway whom the worker does not know.
        let detail =
            format!("worker {} on {} turned this gateway away", worker.id, worker.hostname);
        return Fault::new(Code::Unavailable, detail)
            .remedy("give gateway and worker the same fleet key, and read the worker's log");
    }
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
        Fault::internal(format!("worker {} answered {status} without a fault: {text}", worker.id))
    })
}

fn parse<T: DeserializeOwned>(worker: &Worker, body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| {
        let detail =
            format!("worker {} ({}) answered unreadably: {error}", worker.id, worker.version);
        Fault::internal(detail)
    })
}
