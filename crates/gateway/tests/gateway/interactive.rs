//! What passes through to the worker: commands that are waited for, consoles, WebSockets.

use crate::server::{KEY, LONG, Server};
use aetherium_model::{
    Code, Fault,
    interactive::Captured,
    run::{Command, Execution},
    task::TaskKind,
    vm::VmState,
};
use futures::{SinkExt, StreamExt};
use http::{Method, StatusCode};
use std::sync::atomic::Ordering;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest},
};

#[tokio::test]
async fn a_command_reaches_the_worker_as_it_was_sent_and_a_bad_exit_is_a_result() {
    let server = Server::start().await;
    let vm = server.vm().await;
    let body = r#"{"argv":["a","b"],"env":{"K":"v"},"cwd":"/tmp","user":"nobody","timeout_ms":9}"#;
    let answer = server.post(&format!("/api/v1/vms/{}/execute", vm.id), body).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let captured: Captured = answer.parse();
    assert_eq!((captured.stdout.as_str(), captured.result.exit_code), ("a b", 3));
    let sent: Command = serde_json::from_str(body).unwrap();
    assert_eq!(*server.worker.seen.commands.lock().unwrap(), [sent]);
}

#[tokio::test]
async fn many_commands_share_one_connection_to_the_worker() {
    let server = Server::start().await;
    let vm = server.vm().await;
    for _ in 0..20 {
        let answer =
            server.post(&format!("/api/v1/vms/{}/execute", vm.id), r#"{"argv":["a"]}"#).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert_eq!(server.worker.seen.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_asynchronous_command_is_queued_and_not_sent_to_the_worker() {
    let server = Server::start().await;
    let vm = server.vm().await;
    let path = format!("/api/v1/vms/{}/execute", vm.id);
    let answer = server.post(&path, r#"{"argv":["a"],"async":true}"#).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let execution: Execution = answer.parse();
    let task = server.get(answer.json()["links"]["task"].as_str().unwrap()).await.json();
    let kind = TaskKind::VmExecute { vm_id: vm.id, execution_id: execution.id };
    assert_eq!(task["type"], kind.as_str());
    assert_eq!(task["execution_id"], execution.id.to_string());
    assert!(server.worker.seen.commands.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_workers_fault_is_the_callers_problem_word_for_word() {
    let server = Server::start().await;
    let vm = server.vm().await;
    let path = format!("/api/v1/vms/{}/execute", vm.id);
    for (code, status) in [
        (Code::SpawnFailed, 422),
        (Code::Conflict, 409),
        (Code::AgentLost, 502),
        (Code::NotFound, 404),
        (Code::DeadlineExceeded, 504),
    ] {
        let fault = Fault::new(code, "what happened").remedy("what to do");
        server.worker.refuse(StatusCode::BAD_REQUEST, fault);
        let answer = server.post(&path, r#"{"argv":["a"]}"#).await;
        assert_eq!(answer.status, status, "{code}");
        let problem = answer.problem();
        assert_eq!(
            (problem.code, problem.detail.as_str(), problem.remedy.as_str()),
            (code, "what happened", "what to do")
        );
    }
}

#[tokio::test]
async fn a_change_of_a_vm_is_checked_before_its_worker_is_asked() {
    let server = Server::start().await;
    let vm = server.vm().await;
    let path = format!("/api/v1/vms/{}", vm.id);
    for (body, field) in [
        ("{}", "balloon_mib"),
        (r#"{"balloon_mib":497}"#, "balloon_mib"),
        (r#"{"memory_mib":100}"#, "memory_mib"),
        (r#"{"limits":{"disk_ops_per_s":9}}"#, "limits.disk_ops_per_s"),
    ] {
        let answer = server.send(server.request(Method::PATCH, &path, body)).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {answer:?}");
        assert_eq!(answer.problem().errors[0].field, field, "{body}");
    }
    let body = r#"{"balloon_mib":496,"limits":{"disk_ops_per_s":0}}"#;
    let answer = server.send(server.request(Method::PATCH, &path, body)).await;
    assert_eq!(answer.parse::<aetherium_model::vm::Vm>().id, vm.id);
}

#[tokio::test]
async fn a_worker_that_is_gone_is_unavailable_and_heard_again_once_it_is_back() {
    let mut server = Server::start().await;
    let vm = server.vm().await;
    let path = format!("/api/v1/vms/{}/execute", vm.id);
    assert_eq!(server.post(&path, r#"{"argv":["a"]}"#).await.status, StatusCode::OK);
    server.worker.kill().await;
    for rest in ["execute", "console"] {
        let path = format!("/api/v1/vms/{}/{rest}", vm.id);
        let answer = match rest {
            "execute" => server.post(&path, r#"{"argv":["a"]}"#).await,
            _ => server.get(&path).await,
        };
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        let problem = answer.problem();
        assert_eq!(problem.code.as_str(), "unavailable");
        assert!(problem.detail.contains("testhost") && !problem.remedy.is_empty(), "{problem:?}");
        assert!(answer.headers.contains_key("retry-after"));
    }
    std::fs::remove_file(&server.worker.socket).unwrap();
    server.worker = crate::worker::FakeWorker::start(&server.directory.path().join("worker.sock"));
    assert_eq!(server.post(&path, r#"{"argv":["a"]}"#).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_vm_that_has_ended_runs_nothing_and_says_why() {
    let server = Server::start().await;
    let mut vm = server.vm().await;
    vm.state = VmState::Failed { termination: Fault::new(Code::KernelPanic, "it panicked") };
    server.queue.store().update_vm(&vm).await.unwrap();
    for body in [r#"{"argv":["a"]}"#, r#"{"argv":["a"],"async":true}"#] {
        let answer = server.post(&format!("/api/v1/vms/{}/execute", vm.id), body).await;
        assert_eq!(answer.status, StatusCode::CONFLICT);
        let problem = answer.problem();
        assert_eq!(problem.code.as_str(), "vm_gone");
        assert!(problem.detail.contains("it panicked"));
    }
    assert_eq!(server.get(&format!("/api/v1/vms/{}/console", vm.id)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_console_is_bytes_from_its_end() {
    let server = Server::start().await;
    let vm = server.vm().await;
    let path = format!("/api/v1/vms/{}/console", vm.id);
    let answer = server.get(&path).await;
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    assert_eq!(answer.body, &b"Linux version 6\nwelcome\xff\n"[..]);
    assert_eq!(server.get(&format!("{path}?tail_bytes=2")).await.body, &b"\xff\n"[..]);
}

type Socket = WebSocketStream<TcpStream>;

async fn dial(server: &Server, vm: aetherium_model::VmId) -> Result<Socket, tungstenite::Error> {
    let address = format!("ws://{}/api/v1/vms/{vm}/exec", server.address);
    let mut request = address.into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {KEY}").parse().unwrap());
    request.headers_mut().insert("sec-websocket-protocol", "aetherium".parse().unwrap());
    request.headers_mut().insert("cookie", "secret=1".parse().unwrap());
    request.headers_mut().insert("x-request-id", "ws-1".parse().unwrap());
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (socket, response) = client_async(request, stream).await?;
    assert_eq!(response.headers()["sec-websocket-protocol"], "aetherium");
    assert_eq!(response.headers()["x-request-id"], "ws-1");
    Ok(socket)
}

async fn next(socket: &mut Socket) -> Option<Result<Message, tungstenite::Error>> {
    tokio::time::timeout(LONG, socket.next()).await.expect("a frame or the end must come")
}

#[tokio::test]
async fn a_websocket_carries_frames_both_ways_and_no_key_to_the_worker() {
    let server = Server::start().await;
    let vm = server.vm().await;
    let mut socket = dial(&server, vm.id).await.unwrap();
    let big = vec![7u8; aetherium_model::interactive::MAX_FRAME_BYTES];
    for message in [Message::text("open"), Message::binary(big), Message::binary(vec![0, 255])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(next(&mut socket).await.unwrap().unwrap(), message);
    }
    let headers = server.worker.seen.headers.lock().unwrap().clone();
    assert_eq!(headers["x-request-id"], "ws-1");
    for (name, value) in &headers {
        assert!(!value.to_str().unwrap().contains(KEY) && name != "cookie", "{name}: {value:?}");
    }
}

#[tokio::test]
async fn when_either_end_of_a_websocket_goes_the_other_does() {
    let server = Server::start().await;
    let vm = server.vm().await;
    let mut socket = dial(&server, vm.id).await.unwrap();
    socket.send(Message::text("close")).await.unwrap();
    loop {
        match next(&mut socket).await {
            None | Some(Err(_)) => break,
            Some(Ok(message)) => assert!(message.is_close(), "{message:?}"),
        }
    }
    // A client that vanishes without a word.
    let socket = dial(&server, vm.id).await.unwrap();
    drop(socket);
    let gone = server.worker.seen.client_gone.notified();
    tokio::time::timeout(LONG, gone).await.expect("the worker must learn of it");
}

#[tokio::test]
async fn a_websocket_that_is_not_to_be_is_a_problem() {
    let mut server = Server::start().await;
    let vm = server.vm().await;
    let refused = async |server: &Server, vm| match dial(server, vm).await {
        Err(tungstenite::Error::Http(response)) => {
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            response.status().as_u16()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&server, aetherium_model::VmId::new()).await, 404);
    let fault = Fault::new(Code::Conflict, "it is still booting");
    server.worker.refuse(StatusCode::CONFLICT, fault);
    assert_eq!(refused(&server, vm.id).await, 409);
    server.worker.kill().await;
    assert_eq!(refused(&server, vm.id).await, 503);
    let plain = server.get(&format!("/api/v1/vms/{}/exec", vm.id)).await;
    assert_eq!(plain.problem().errors[0].field, "Upgrade");
}
