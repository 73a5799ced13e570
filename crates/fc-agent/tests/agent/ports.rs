//! Tunnels to the guest's ports, and which of them are listened on.

use std::time::Duration;

use aetherium_agent_client::{AgentError, RefusalKind};
use aetherium_agent_proto::ports::PortEvent;
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::harness::{Agent, story};

#[test]
fn each_direction_of_a_tunnel_ends_on_its_own() {
    let agent = Agent::start();
    story(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let guest = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut question = String::new();
            // To the end of what is said: the caller's half has ended, ours has not.
            socket.read_to_string(&mut question).await.unwrap();
            socket.write_all(format!("you said {question}").as_bytes()).await.unwrap();
        });
        let mut tunnel = agent.unix().ports().connect(port).await.unwrap();
        tunnel.writer.write(Bytes::from_static(b"hello")).await.unwrap();
        tunnel.writer.end().await.unwrap();
        let mut answer = Vec::new();
        while let Some(data) = tunnel.reader.next().await.unwrap() {
            answer.extend_from_slice(&data);
        }
        assert_eq!(answer, b"you said hello");
        guest.await.unwrap();
    });
}

#[test]
fn the_guests_side_may_end_first() {
    let agent = Agent::start();
    story(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let guest = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.shutdown().await.unwrap();
            let mut late = Vec::new();
            socket.read_to_end(&mut late).await.unwrap();
            late.len()
        });
        let mut tunnel = agent.unix().ports().connect(port).await.unwrap();
        assert_eq!(tunnel.reader.next().await.unwrap(), None);
        for _ in 0..32 {
            tunnel.writer.write(Bytes::from(vec![1; 64 * 1024])).await.unwrap();
        }
        tunnel.writer.end().await.unwrap();
        assert_eq!(guest.await.unwrap(), 2 << 20);
    });
}

#[test]
fn a_port_nobody_listens_on_is_told_as_refused() {
    let agent = Agent::start();
    story(async {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap().port()
        };
        for (port, kind) in
            [(port, RefusalKind::ConnectionRefused), (0, RefusalKind::InvalidRequest)]
        {
            match agent.unix().ports().connect(port).await {
                Err(AgentError::Refused { kind: found, detail }) => {
                    assert_eq!(found, kind, "{detail}");
                    assert!(detail.contains(&port.to_string()), "{detail}");
                }
                Err(other) => panic!("{other}"),
                Ok(_) => panic!("port {port} was connected to"),
            }
        }
    });
}

#[test]
fn a_caller_that_leaves_closes_the_guests_side() {
    let agent = Agent::start();
    story(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tunnel = agent.unix().ports().connect(port).await.unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        drop(tunnel);
        let mut nothing = Vec::new();
        assert_eq!(socket.read_to_end(&mut nothing).await.unwrap_or(0), 0);
    });
}

#[test]
fn ports_are_told_as_they_open_and_close() {
    let agent = Agent::start();
    story(async {
        let before = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port_of = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let every = Some(Duration::from_millis(50));
        let mut watch = agent.unix().ports().watch(every).await.unwrap();
        let mut known = Vec::new();
        loop {
            match watch.next().await.unwrap() {
                PortEvent::Opened(port) => known.push(port.port),
                PortEvent::CaughtUp => break,
                PortEvent::Closed(port) => panic!("{port:?} closed before it was told"),
            }
        }
        assert!(known.contains(&port_of(&before)), "{known:?}");
        let later = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = port_of(&later);
        loop {
            if let PortEvent::Opened(opened) = watch.next().await.unwrap()
                && opened.port == port
            {
                break;
            }
        }
        drop(later);
        loop {
            if let PortEvent::Closed(closed) = watch.next().await.unwrap()
                && closed.port == port
            {
                break;
            }
        }
    });
}
