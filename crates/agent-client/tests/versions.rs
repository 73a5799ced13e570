//! Hosts and agents of different releases.
// A failed step fails its test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aetherium_agent_client::{
    AgentClient, AgentError, Deadlines, Endpoint, ExecSpec, Role, TerminalSize,
};
use aetherium_agent_proto::rpc::wire;
use buffa::Message as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;

/// An agent that greets as one of another release would, and knows nothing else. Counts what it was
/// asked beside its greeting.
struct Other {
    dir: tempfile::TempDir,
    asked: Arc<AtomicUsize>,
}

impl Other {
    fn start(major: u32, minor: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket(dir.path())).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let count = count.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = answer(request.uri().path(), major, minor, &count);
                    async { Ok::<_, Infallible>(answer) }
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { dir, asked }
    }

    fn client(&self) -> AgentClient {
        let deadlines = Deadlines { call: Duration::from_secs(2), ..Deadlines::default() };
        AgentClient::new(vec![Endpoint::Unix { path: socket(self.dir.path()) }], deadlines)
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("agent.sock")
}

fn answer(path: &str, major: u32, minor: u32, asked: &AtomicUsize) -> Response<Full<Bytes>> {
    if !path.ends_with("/Hello") {
        asked.fetch_add(1, Ordering::Relaxed);
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::NOT_FOUND;
        return answer;
    }
    let hello = wire::HelloResponse {
        protocol_major: major,
        protocol_minor: minor,
        agent_version: "other".into(),
        ..wire::HelloResponse::default()
    };
    let body = Full::new(Bytes::from(hello.encode_to_vec()));
    Response::builder().header("content-type", "application/proto").body(body).unwrap()
}

#[tokio::test]
async fn what_an_older_agent_lacks_is_refused_before_it_is_asked() {
    let agent = Other::start(1, 0);
    let client = agent.client();
    assert_eq!(client.hello().await.unwrap().agent_version, "other");
    let size = TerminalSize { rows: 1, cols: 1 };
    let refused = [
        client.exec(ExecSpec::new(["true"]).detached()).await.err(),
        client.exec(ExecSpec::shell("true")).await.err(),
        client.attach(1, None, Role::Viewer).await.err(),
        client.wait(1).await.err(),
        client.resize(1, size).await.err(),
        client.list_all().await.err(),
        client.upgrade(Bytes::from_static(b"program")).await.err(),
    ];
    for error in refused.into_iter().map(Option::unwrap) {
        assert!(matches!(error, AgentError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("needs an agent of protocol 1.1"), "{error}");
        assert!(!error.may_have_started());
    }
    assert_eq!(agent.asked.load(Ordering::Relaxed), 0);
    // What both know is asked for as ever.
    client.exec(ExecSpec::new(["true"])).await.err().unwrap();
    client.list().await.unwrap_err();
    assert_eq!(agent.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_newer_agent_of_the_same_major_is_talked_to() {
    let agent = Other::start(1, 999);
    assert_eq!(agent.client().hello().await.unwrap().protocol.minor, 999);
}

#[tokio::test]
async fn another_major_is_refused_with_both_versions() {
    for major in [0, 2] {
        let agent = Other::start(major, 0);
        let error = agent.client().wait_ready(Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(error, AgentError::Incompatible { .. }), "{error}");
        assert!(error.to_string().contains(&format!("speaks protocol {major}.0")), "{error}");
    }
}
