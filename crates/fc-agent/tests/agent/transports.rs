//! Reaching an agent: which transport wins, how fast the other takes over, who is let in.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aetherium_agent_client::{AgentError, AgentTransport, Endpoint, ExecSpec};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::harness::{Agent, TOKEN, client, finish, story};

/// A VMM's vsock socket that leads to `agent`, or answers `CONNECT` by hanging up.
fn fake_vsock(dir: &Path, agent: Option<PathBuf>) -> Endpoint {
    let uds = dir.join("vsock.sock");
    let listener = UnixListener::bind(&uds).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let agent = agent.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                assert_eq!(line, "CONNECT 9999\n");
                let Some(agent) = agent else { return };
                stream.write_all(b"OK 1073741824\n").await.unwrap();
                let mut there = UnixStream::connect(agent).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut there).await;
            });
        }
    });
    Endpoint::Vsock { uds, port: 9999 }
}

#[test]
fn vsock_wins_when_both_work() {
    let agent = Agent::start();
    story(async {
        let vsock = fake_vsock(agent.dir(), Some(agent.socket()));
        let client = client(vec![agent.tcp_endpoint(TOKEN), vsock]);
        assert_eq!(client.transport(), None);
        client.wait_ready(Duration::from_secs(5)).await.unwrap();
        assert_eq!(client.transport(), Some(AgentTransport::Vsock));
    });
}

#[test]
fn a_vsock_that_hangs_up_costs_no_waiting() {
    let agent = Agent::start();
    story(async {
        let vsock = fake_vsock(agent.dir(), None);
        let client = client(vec![vsock, agent.tcp_endpoint(TOKEN)]);
        let began = Instant::now();
        let hello = client.wait_ready(Duration::from_secs(5)).await.unwrap();
        let took = began.elapsed();
        assert!(took < Duration::from_millis(45), "{took:?}");
        assert_eq!(client.transport(), Some(AgentTransport::Tcp));
        assert_eq!(hello.transports, [AgentTransport::Tcp, AgentTransport::Unix]);
        let output = finish(client.exec(ExecSpec::new(["echo", "hi"])).await.unwrap()).await;
        assert_eq!(output.stdout, "hi\n");
    });
}

#[test]
fn a_vsock_that_is_silent_costs_the_head_start_and_no_more() {
    let agent = Agent::start();
    story(async {
        let uds = agent.dir().join("silent.sock");
        let _silent = UnixListener::bind(&uds).unwrap();
        let vsock = Endpoint::Vsock { uds, port: 9999 };
        let client = client(vec![vsock, agent.tcp_endpoint(TOKEN)]);
        let began = Instant::now();
        client.hello().await.unwrap();
        let took = began.elapsed();
        assert!(took < Duration::from_millis(200), "{took:?}");
        assert_eq!(client.transport(), Some(AgentTransport::Tcp));
    });
}

#[test]
fn a_wrong_token_is_refused_at_once_with_its_own_error() {
    let agent = Agent::start();
    story(async {
        let client = client(vec![agent.tcp_endpoint("another-token-altogether")]);
        let error = client.wait_ready(Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(error, AgentError::Unauthorized { .. }), "{error}");
        assert!(!error.may_have_started());
    });
}

#[test]
fn the_agent_says_who_it_is() {
    let agent = Agent::start();
    story(async {
        let hello = agent.unix().hello().await.unwrap();
        assert!(!hello.is_init);
        assert_eq!(hello.boot_id.len(), 36);
        assert!(hello.started_uptime_ms <= hello.listening_uptime_ms);
        assert!(hello.listening_uptime_ms <= hello.uptime_ms);
    });
}

#[test]
fn nobody_there_is_said_within_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    story(async {
        let client = client(vec![Endpoint::Unix { path: dir.path().join("none.sock") }]);
        let began = Instant::now();
        let error = client.wait_ready(Duration::from_millis(200)).await.unwrap_err();
        assert_eq!(error.code(), "agent_unreachable");
        assert!(error.to_string().contains("none.sock"), "{error}");
        assert!(began.elapsed() < Duration::from_millis(400));
    });
}

#[test]
fn an_agent_that_comes_late_is_found_soon() {
    let agent = Agent::start();
    story(async {
        let link = agent.dir().join("late.sock");
        let client = client(vec![Endpoint::Unix { path: link.clone() }]);
        let waiting = client.wait_ready(Duration::from_secs(10));
        let appearing = async {
            tokio::task::yield_now().await;
            std::os::unix::fs::symlink(agent.socket(), &link).unwrap();
        };
        let (hello, ()) = tokio::join!(waiting, appearing);
        hello.unwrap();
    });
}

#[test]
fn a_lost_connection_is_dialled_anew() {
    let mut first = Agent::start();
    story(async {
        let client = first.unix();
        client.hello().await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(first.wait().await, 0);
        assert!(client.hello().await.is_err());
        let second = Agent::start();
        std::os::unix::fs::symlink(second.socket(), first.socket()).unwrap_or_else(|_| {
            std::fs::remove_file(first.socket()).unwrap();
            std::os::unix::fs::symlink(second.socket(), first.socket()).unwrap();
        });
        client.wait_ready(Duration::from_secs(5)).await.unwrap();
    });
}
