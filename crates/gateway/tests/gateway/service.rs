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
