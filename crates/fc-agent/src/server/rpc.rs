//! The RPC service on one connection.
//!
//! Owns the check of the token on each request and the translation between the wire's messages and
//! the agent's types. An output stream is pulled by its caller: what is not read is not produced.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aetherium_agent_proto::rpc::{self, OutgoingEvent, wire};
use connectrpc::{
    ConnectError, ConnectRpcBody, ConnectRpcService, Encodable, InboundStream, RequestContext,
    Response, Router, ServiceRequest, ServiceResult, ServiceStream,
};
use futures::StreamExt as _;
use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;
use tower::Service as _;

use super::limits::Admission;
use super::{Agent, Caller, PROOF_DEADLINE};
use crate::exec::{self, ChildEvent, Running, SignalError};
use crate::files::FileVerbs;
use crate::ports::PortVerbs;
use crate::system::SystemVerbs;

/// The most bytes of one stream that wait to be sent.
const SEND_BUFFER: usize = 256 * 1024;
/// How often a silent host is asked for a sign of life, and how long it may take.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a refused caller gets to read why.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// How long open streams get to finish once the agent ends: as long as its processes.
const FINISH_TIME: Duration = Duration::from_secs(4);

/// What the requests of one connection know of it.
struct Session {
    agent: Arc<Agent>,
    admission: Admission,
    must_prove: bool,
    proven: AtomicBool,
    refused: Notify,
}

/// Serves RPCs until the caller leaves, breaks a rule, or the agent ends.
pub(super) async fn serve(caller: Caller, agent: Arc<Agent>) {
    let Caller { socket, admission, must_prove } = caller;
    let router = Router::new()
        .add_service(Arc::new(Verbs { agent: agent.clone() }))
        .add_service(Arc::new(FileVerbs))
        .add_service(Arc::new(PortVerbs))
        .add_service(Arc::new(SystemVerbs { machine: agent.machine() }));
    let limits = connectrpc::Limits::default().with_max_message_size(rpc::MAX_MESSAGE_BYTES);
    // Input may go on for as long as a process reads it: a body has no end to count to.
    let limits = limits.with_max_request_body_size(usize::MAX);
    let verbs = ConnectRpcService::new(router).with_limits(limits);
    let session = Arc::new(Session {
        agent,
        admission,
        must_prove,
        proven: AtomicBool::new(false),
        refused: Notify::new(),
    });
    let service = {
        let session = session.clone();
        service_fn(move |request: Request<Incoming>| {
            let admitted = session.check(&request);
            let mut verbs = verbs.clone();
            async move {
                if !admitted {
                    return Ok::<_, Infallible>(unauthorized());
                }
                verbs.call(request).await
            }
        })
    };
    let connection = pin!(
        Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_frame_size(rpc::MAX_FRAME_BYTES)
            .initial_stream_window_size(rpc::GUEST_STREAM_WINDOW)
            .initial_connection_window_size(rpc::connection_window(rpc::GUEST_STREAM_WINDOW))
            .max_concurrent_streams(rpc::MAX_STREAMS)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .serve_connection(TokioIo::new(socket), service)
    );
    drive(connection, &session, |it| it.graceful_shutdown()).await;
}

/// Drives a connection to its end. How it failed is its caller's to see.
async fn drive<C>(mut connection: Pin<&mut C>, session: &Session, finish: impl FnOnce(Pin<&mut C>))
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    let deadline = tokio::time::sleep(PROOF_DEADLINE);
    let mut deadline = pin!(deadline);
    let mut proof_is_due = true;
    let patience = loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = session.refused.notified() => break REFUSAL_TIME,
            () = session.agent.stopped() => break FINISH_TIME,
            () = &mut deadline, if proof_is_due => {
                if !session.proven.load(Ordering::Relaxed) {
                    return;
                }
                proof_is_due = false;
            }
        }
    };
    finish(connection.as_mut());
    let _ = tokio::time::timeout(patience, connection).await;
}

impl Session {
    /// Whether a request may be served. The first refusal ends the connection.
    fn check<B>(&self, request: &Request<B>) -> bool {
        let proof = || request.headers().get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ");
        let admitted = !self.must_prove || proof().is_some_and(|it| self.agent.is_token(it));
        if !admitted {
            self.refused.notify_one();
        } else if !self.proven.swap(true, Ordering::Relaxed) {
            self.admission.prove();
        }
        admitted
    }
}

fn unauthorized() -> http::Response<ConnectRpcBody> {
    let mut answer = http::Response::new(ConnectRpcBody::Full(Full::default()));
    *answer.status_mut() = StatusCode::UNAUTHORIZED;
    answer
}

/// The verbs.
struct Verbs {
    agent: Arc<Agent>,
}

impl wire::Agent for Verbs {
    async fn hello<'a>(
        &'a self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::HelloRequest>,
    ) -> ServiceResult<impl Encodable<wire::HelloResponse> + Send + use<'a>> {
        Response::ok(wire::HelloResponse::from(&self.agent.hello()))
    }

    async fn start(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::StartRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<wire::ProcessEvent> + Send + use<>>> {
        let spec = request.to_owned_message().into();
        let events: ServiceStream<OutgoingEvent> = match exec::start(self.agent.children(), spec) {
            Ok(running) => Box::pin(follow(running)),
            Err(error) => {
                let failed = OutgoingEvent::failed(error.kind().code(), &error.to_string());
                Box::pin(futures::stream::once(std::future::ready(Ok(failed))))
            }
        };
        Response::ok(events)
    }

    async fn write_stdin<'a>(
        &'a self,
        _context: RequestContext,
        mut requests: InboundStream<wire::StdinRequest>,
    ) -> ServiceResult<impl Encodable<wire::StdinResponse> + Send + use<'a>> {
        let mut stdin = None;
        while let Some(request) = requests.next().await {
            let request = request?;
            let request = request.view();
            let pipe = match &mut stdin {
                Some(pipe) => pipe,
                None => stdin.insert(
                    self.agent
                        .children()
                        .take_stdin(request.pid)
                        .map_err(|error| ConnectError::not_found(error.to_string()))?,
                ),
            };
            pipe.write_all(request.data).await.map_err(|error| {
                let pid = request.pid;
                ConnectError::failed_precondition(format!("stdin of process {pid}: {error}"))
            })?;
        }
        Response::ok(wire::StdinResponse::default())
    }

    async fn send_signal<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::SendSignalRequest>,
    ) -> ServiceResult<impl Encodable<wire::SendSignalResponse> + Send + use<'a>> {
        let sent = self.agent.children().signal(request.pid, request.signal);
        sent.map_err(|error| match error {
            SignalError::NoSuchProcess(_) => ConnectError::not_found(error.to_string()),
            SignalError::InvalidSignal(_) => ConnectError::invalid_argument(error.to_string()),
            SignalError::Refused { .. } => ConnectError::permission_denied(error.to_string()),
        })?;
        Response::ok(wire::SendSignalResponse::default())
    }

    async fn list<'a>(
        &'a self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::ListRequest>,
    ) -> ServiceResult<impl Encodable<wire::ListResponse> + Send + use<'a>> {
        let list = self.agent.children().list();
        let processes = list.into_iter().map(wire::ProcessEntry::from).collect();
        Response::ok(wire::ListResponse { processes, ..wire::ListResponse::default() })
    }

    async fn shutdown<'a>(
        &'a self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::ShutdownRequest>,
    ) -> ServiceResult<impl Encodable<wire::ShutdownResponse> + Send + use<'a>> {
        self.agent.want_stop();
        Response::ok(wire::ShutdownResponse::default())
    }
}

/// A process's life as wire events. Dropping it drops the process.
fn follow(
    running: Running,
) -> impl futures::Stream<Item = Result<OutgoingEvent, ConnectError>> + Send + 'static {
    let Running { pid, mut events } = running;
    let started = futures::stream::once(std::future::ready(OutgoingEvent::started(pid)));
    let rest = futures::stream::poll_fn(move |cx| events.poll_recv(cx)).map(|event| match event {
        ChildEvent::Stdout(data) => OutgoingEvent::Stdout(data),
        ChildEvent::Stderr(data) => OutgoingEvent::Stderr(data),
        ChildEvent::Exited(report) => OutgoingEvent::exited(&report),
    });
    started.chain(rest).map(Ok)
}
