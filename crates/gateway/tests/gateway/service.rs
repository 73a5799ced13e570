//! The listener: what it bounds, and how it stops.

use crate::server::{KEY, LONG, Server, now};
use aetherium_model::output::{EventBody, Stream};
use aetherium_store::RunRef;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn until_closed(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = tokio::time::timeout(LONG, stream.read_to_end(&mut text)).await;
    let _ = read.expect("the gateway must close the connection");
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_client_that_never_finishes_its_head_is_cut_off() {
    let server = Server::start_with(
        |config| config.header_read_timeout = Duration::from_millis(100),
        |store| store,
    )
    .await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nx-a").await.unwrap();
    assert!(!until_closed(&mut stream).await.contains("200"));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!("GET /health HTTP/1.1\r\nhost: x\r\nx-a: {}\r\n\r\n", "x".repeat(200_000));
    let _ = stream.write_all(head.as_bytes()).await;
    let answer = until_closed(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_until_one_closes() {
    let server = Server::start_with(|config| config.max_connections = 1, |store| store).await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    first.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    first.read_exact(&mut [0; 12]).await.unwrap();
    let mut second = TcpStream::connect(server.address).await.unwrap();
    let request = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    second.write_all(request).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(200), second.readable()).await;
    assert!(early.is_err(), "the second connection was served beside the first");
    drop(first);
    assert!(until_closed(&mut second).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn stopping_ends_streams_and_websockets_and_then_returns() {
    let server = Server::start().await;
    let vm = server.vm().await;
    let execution = server.execution(&vm).await;
    let run = RunRef::Execution(execution.id);
    let body = EventBody::Output { stream: Stream::Stdout, text: "MARK".into() };
    server.queue.append_events(run, vec![(now(), body)]).await.unwrap();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "GET /api/v1/executions/{}/events HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\n\r\n",
        execution.id
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut begun = Vec::new();
    while !String::from_utf8_lossy(&begun).contains("MARK") {
        assert!(stream.read_buf(&mut begun).await.unwrap() > 0);
    }
    let mut websocket = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "GET /api/v1/vms/{}/exec HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        vm.id
    );
    websocket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    websocket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");

    server.shutdown.cancel();
    until_closed(&mut stream).await;
    until_closed(&mut websocket).await;
    tokio::time::timeout(LONG, server.serving).await.expect("it must stop").unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "it still listens");
}

#[tokio::test]
async fn stopping_lets_a_request_in_flight_finish_but_not_for_ever() {
    let server = Server::start_with(
        |config| config.shutdown_grace = Duration::from_millis(300),
        |store| store,
    )
    .await;
    let vm = server.vm().await;
    *server.worker.seen.stalls.lock().unwrap() = true;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "GET /api/v1/vms/{}/console HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\n\r\n",
        vm.id
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let asked = async {
        while server.worker.seen.connections.load(std::sync::atomic::Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, asked).await.expect("the worker must be asked");
    server.shutdown.cancel();
    tokio::time::timeout(LONG, server.serving).await.expect("it must stop").unwrap().unwrap();
    assert!(!until_closed(&mut stream).await.contains("200 OK"));
}

/// What was logged, by every subscriber that writes here.
#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn each_request_leaves_one_line_in_the_log_without_its_secrets() {
    // For the whole process: what one thread alone listens to, other tests' threads can switch off.
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .json()
        .with_env_filter("aetherium=trace")
        .with_writer(move || writer.clone())
        .init();
    let server = Server::start().await;
    let vm = server.vm().await;
    let body = r#"{"argv":["body-secret"],"env":{"A":"body-secret"}}"#;
    let executed = server.post(&format!("/api/v1/vms/{}/execute", vm.id), body).await;
    let refused = server.get("/api/v1/vms?limit=query-secret").await;
    let mut request = server.request(http::Method::GET, "/api/v1/vms", "");
    let wrong = "Bearer wrong-key-secret".parse().unwrap();
    request.headers_mut().insert("authorization", wrong);
    let unauthorized = server.send(request).await;

    // Other tests' requests are in the same log.
    let ours =
        [executed, refused, unauthorized].map(|answer| answer.headers["x-request-id"].clone());
    let is_ours = |line: &serde_json::Value| {
        line["fields"]["request_id"].as_str().is_some_and(|id| ours.iter().any(|ours| ours == id))
    };
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let (access, others): (Vec<_>, Vec<_>) =
        lines.partition(|line| line["target"] == "aetherium::access");
    let told: Vec<_> = access
        .iter()
        .filter(|line| is_ours(line))
        .map(|line| {
            let fields = &line["fields"];
            assert!(fields["request_id"].is_string() && fields["latency_us"].is_u64(), "{line}");
            assert!(line.to_string().find("secret").is_none(), "{line}");
            (
                fields["method"].as_str().unwrap(),
                fields["route"].as_str().unwrap(),
                &fields["status"],
            )
        })
        .collect();
    assert_eq!(
        format!("{told:?}"),
        r#"[("POST", "/api/v1/vms/{vm}/execute", Number(200)), ("GET", "/api/v1/vms", Number(422)), ("GET", "/api/v1/vms", Number(401))]"#
    );
    for line in
        others.iter().filter(|line| line["target"].as_str().unwrap().starts_with("aetherium"))
    {
        let text = line.to_string();
        assert!(!text.contains("secret") && !text.contains(KEY), "{text}");
    }
}
