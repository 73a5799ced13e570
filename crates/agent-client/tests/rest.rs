//! A connection that nobody uses is closed, and one that somebody uses is not.
// A failed step fails its test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use aetherium_agent_client::{AgentClient, Deadlines, Endpoint};
use aetherium_agent_proto::{PROTOCOL, rpc::wire};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Whatever takes this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// What silence of the agent the client bears, and for how long it keeps what nobody uses, nearly.
const SILENCE: Duration = Duration::from_secs(1);

/// What happened to the agent's connections.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Opened,
    Waiting,
    Closed,
}

/// An agent that greets, answers every wait after `wait`, and tells of its connections.
fn agent(socket: PathBuf, wait: Duration) -> mpsc::UnboundedReceiver<Seen> {
    let listener = UnixListener::bind(socket).unwrap();
    let (tell, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tell.send(Seen::Opened).unwrap();
            let (waiting, closed) = (tell.clone(), tell.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let waiting = waiting.clone();
                async move {
                    if request.uri().path().ends_with("/Hello") {
                        let (major, minor) = (PROTOCOL.major, PROTOCOL.minor);
                        return answer(&wire::HelloResponse {
                            protocol_major: major,
                            protocol_minor: minor,
                            ..wire::HelloResponse::default()
                        });
                    }
                    waiting.send(Seen::Waiting).unwrap();
                    tokio::time::sleep(wait).await;
                    answer(&wire::WaitResponse::default())
                }
            });
            tokio::spawn(async move {
                let builder = Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                let _ = closed.send(Seen::Closed);
            });
        }
    });
    seen
}

fn answer(message: &impl buffa::Message) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = Full::new(Bytes::from(message.encode_to_vec()));
    Ok(Response::builder().header("content-type", "application/proto").body(body).unwrap())
}

async fn next(seen: &mut mpsc::UnboundedReceiver<Seen>) -> Seen {
    timeout(PATIENCE, seen.recv()).await.expect("nothing happens").unwrap()
}

#[tokio::test]
async fn a_connection_is_closed_once_nobody_uses_it_and_the_next_call_dials() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let mut seen = agent(socket.clone(), SILENCE * 3);
    let deadlines = Deadlines { silence: SILENCE, ..Deadlines::default() };
    let client = AgentClient::new(vec![Endpoint::Unix { path: socket }], deadlines);
    client.hello().await.unwrap();
    assert_eq!(next(&mut seen).await, Seen::Opened);
    assert_eq!(next(&mut seen).await, Seen::Closed, "though nobody used it");

    // Somebody waits for a process, far longer than a connection may rest.
    client.wait(7).await.unwrap();
    let meanwhile: Vec<Seen> = std::iter::from_fn(|| seen.try_recv().ok()).collect();
    assert_eq!(meanwhile, [Seen::Opened, Seen::Waiting], "it was closed under somebody's hands");
    assert_eq!(next(&mut seen).await, Seen::Closed);
}
