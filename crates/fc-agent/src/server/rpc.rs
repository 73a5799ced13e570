//! RPC on one connection: HTTP/2, the check of the token on each request, the connection's end.
//!
//! What the requests ask for is done by the [`verbs`](super::verbs).

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aetherium_agent_proto::rpc;
use connectrpc::{ConnectRpcBody, ConnectRpcService};
use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::Notify;
use tower::Service as _;

use super::limits::Admission;
use super::{Agent, Caller, Doors, PROOF_DEADLINE, verbs};

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
    let (socket, left) = socket.giving_back();
    let limits = connectrpc::Limits::default().with_max_message_size(rpc::MAX_MESSAGE_BYTES);
    // Input may go on for as long as a process reads it: a body has no end to count to.
    let limits = limits.with_max_request_body_size(usize::MAX);
    let verbs = ConnectRpcService::new(verbs::router(&agent)).with_limits(limits);
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
    {
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
    // The connection is gone and has left its stream, unless a task of it still holds that.
    if let Ok(Ok(stream)) = tokio::time::timeout(REFUSAL_TIME, left).await {
        stream.linger().await;
    }
}

/// Drives a connection to its end. How it failed is its caller's to see.
async fn drive<C>(mut connection: Pin<&mut C>, session: &Session, finish: impl Fn(Pin<&mut C>))
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    let mut deadline = pin!(tokio::time::sleep(PROOF_DEADLINE));
    let mut proof_is_due = true;
    let mut doors = session.agent.doors();
    let patience = loop {
        let now = *doors.borrow_and_update();
        match now {
            Doors::Open => {}
            // Whoever has not taken everything yet may go on doing so.
            Doors::Leaving => finish(connection.as_mut()),
            Doors::Closed => break FINISH_TIME,
        }
        tokio::select! {
            _ = connection.as_mut() => return,
            () = session.refused.notified() => break REFUSAL_TIME,
            _ = doors.changed() => {}
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
