//! The vsock socket and the agent behind it.

use crate::harness::{PATIENCE, Place, SILENCE, agent_at};
use aetherium_agent_client::{ExecSpec, ExitStatus, collect};
use serde_json::json;
use std::path::Path;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

pub(crate) async fn dial(uds: &Path, request: &str) -> UnixStream {
    let mut stream = UnixStream::connect(uds).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// What comes back until the end of the connection.
pub(crate) async fn answer(mut stream: UnixStream) -> String {
    let mut text = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("it stays open").unwrap();
    text
}

#[tokio::test]
async fn a_command_runs_in_the_guest_over_vsock() {
    let place = Place::new();
    let fake = place.plain().await;
    fake.configure(&place, "quiet").await;
    fake.start().await;
    let agent = agent_at(fake.vsock());
    agent.wait_ready(PATIENCE).await.unwrap();
    let process = agent.exec(ExecSpec::new(["echo", "hi"])).await.unwrap();
    let output = collect(process, 1024).await.unwrap();
    assert_eq!(&output.stdout[..], b"hi\n");
    assert_eq!(output.exit.status, ExitStatus::Code(0));
    assert!(fake.console().contains("aetherium-init: stage=listening"), "{}", fake.console());
}

#[tokio::test]
async fn a_port_is_answered_with_the_hosts_own_and_a_closed_one_without_a_line() {
    let place = Place::new();
    let fake = place.plain().await;
    fake.configure(&place, "quiet").await;
    // Nobody listens before the guest is up.
    assert_eq!(answer(dial(&fake.vsock(), "CONNECT 9999\n").await).await, "");
    fake.start().await;
    agent_at(fake.vsock()).wait_ready(PATIENCE).await.unwrap();
    let mut stream = dial(&fake.vsock(), "CONNECT 9999\n").await;
    let mut line = [0; 3];
    stream.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"OK ");
    for request in ["CONNECT 52\n", "HELLO 9999\n"] {
        assert_eq!(answer(dial(&fake.vsock(), request).await).await, "", "{request}");
    }
}

#[tokio::test]
async fn a_vsock_can_be_silent_or_closed() {
    let place = Place::new();
    for (name, silent) in [("silent", true), ("closed", false)] {
        let fake = place.fake(name, &[], json!({ "vsock": name })).await;
        fake.configure(&place, "quiet").await;
        fake.start().await;
        let mut stream = dial(&fake.vsock(), "CONNECT 9999\n").await;
        let read = timeout(SILENCE, stream.read_u8()).await;
        assert_eq!(read.is_err(), silent, "{name}");
    }
}
