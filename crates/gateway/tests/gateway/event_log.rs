//! The event log over the API: by the page and as a stream, resumed at another gateway with nothing
//! missed or doubled.

use crate::{
    events::Reader,
    server::{KEY, LONG, Server, creating_vm, now},
};
use aetherium_gateway::{ApiKeys, Gateway, GatewayConfig, serve};
use aetherium_model::{
    WorkerId,
    event::{Actor, Event, EventPage, EventType},
    task::TaskKind,
    vm::VmState,
};
use aetherium_queue::{Bus, Queue};
use aetherium_store::{DatabaseUrl, RunRef, Store};
use http::StatusCode;
use std::{net::SocketAddr, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Another process's gateway before the same database, which nobody tells of changes.
async fn another_gateway(server: &Server) -> (SocketAddr, CancellationToken) {
    let store = Store::open(&server.database.parse::<DatabaseUrl>().unwrap()).await.unwrap();
    let queue = Queue::new(store, Bus::polling(Duration::from_millis(50)));
    let config = GatewayConfig::new(ApiKeys::new([KEY]).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    tokio::spawn(serve(listener, Gateway::new(config, queue), stop.clone()));
    (address, stop)
}

async fn follow(address: SocketAddr, path: &str, seen: Option<i64>) -> Reader {
    Reader::over(TcpStream::connect(address).await.unwrap(), path, seen, "text/event-stream").await
}

/// The next event, after checking that its lines agree with its data.
async fn next(reader: &mut Reader) -> Event {
    loop {
        let block = reader.block().await.expect("the stream ended");
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
        let Some(data) = field("data: ") else { continue };
        let event: Event = serde_json::from_str(data).unwrap();
        assert_eq!(field("id: "), Some(event.seq.to_string().as_str()));
        assert_eq!(field("event: "), Some(event.kind.as_str()));
        return event;
    }
}

#[tokio::test]
async fn a_request_and_its_key_are_named_by_the_events_they_cause() {
    let server = Server::start().await;
    let mut request = server.request(http::Method::POST, "/api/v1/workspaces", r#"{"name":"w"}"#);
    request.headers_mut().insert("x-request-id", "my-request".parse().unwrap());
    assert_eq!(server.send(request).await.status, StatusCode::CREATED);
    let page: EventPage = server.get("/api/v1/events?workspace=w").await.parse();
    let kinds: Vec<_> = page.items.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventType::WorkspaceCreating, EventType::TaskQueued]);
    for event in page.items {
        assert_eq!(event.cause.request_id.as_deref(), Some("my-request"));
        assert!(event.cause.task_id.is_some());
        let Actor::ApiKey(key) = event.actor else { panic!("{:?}", event.actor) };
        assert!(key.len() == 12 && !KEY.contains(&key), "{key}");
    }
}

#[tokio::test]
async fn pages_go_on_where_the_last_one_ended_and_filters_hold() {
    let server = Server::start().await;
    for _ in 0..3 {
        server.vm().await;
    }
    let page = async |query: &str| -> EventPage {
        server.get(&format!("/api/v1/events?{query}")).await.parse()
    };
    // The worker's joining is the first event of all.
    let first = page("limit=4").await;
    assert_eq!((first.items.len(), first.reached, first.oldest), (4, 4, 1));
    let rest = page(&format!("after={}", first.reached)).await;
    assert_eq!((rest.items.len(), rest.reached), (3, 7));
    assert_eq!(page("after=7").await.items, []);
    assert_eq!(page("type=vm.creating,worker.joined").await.items.len(), 4);
    assert_eq!(page("subject=task").await.items.len(), 3);
    let id = rest.items[2].subject.id();
    assert_eq!(page(&format!("id={id}")).await.items, [rest.items[2].clone()]);

    for (query, field) in
        [("type=vm.flying", "type"), ("limit=501", "limit"), ("after=8", "after"), ("x=1", "x")]
    {
        let refused = server.get(&format!("/api/v1/events?{query}")).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(refused.problem().errors[0].field, field);
    }
}

#[tokio::test]
async fn a_stream_begins_with_what_happens_next_unless_it_is_told_where() {
    let server = Server::start().await;
    server.vm().await;
    let mut from_now = follow(server.address, "/api/v1/events?subject=vm", None).await;
    assert_eq!(from_now.headers["content-type"], "text/event-stream");
    let mut from_the_first = follow(server.address, "/api/v1/events?after=0", None).await;
    let vm = server.vm().await;
    assert_eq!(next(&mut from_now).await.subject.id(), vm.id.to_string());
    assert_eq!(next(&mut from_the_first).await.kind, EventType::WorkerJoined);
}

#[tokio::test]
async fn a_reader_that_changes_gateways_among_writers_misses_nothing_and_hears_nothing_twice() {
    const WRITERS: i64 = 4;
    const VMS: i64 = 15;
    let server = Server::start().await;
    let (other, stop_other) = another_gateway(&server).await;
    let begin = server.queue.store().newest_event().await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let queue = server.queue.clone();
        writers.spawn(async move {
            for _ in 0..VMS {
                let mut vm = creating_vm(WorkerId::new());
                let task = crate::server::task(vm.worker_id, TaskKind::VmCreate { vm_id: vm.id });
                queue.create_vm(&vm, &task, None).await.unwrap();
                vm.state = VmState::Running;
                queue.update_vm(&vm).await.unwrap();
            }
        });
    }
    let end = begin + WRITERS * VMS * 3;
    let (mut seen, mut turn) = (begin, 0);
    let read = async {
        while seen < end {
            turn += 1;
            let gateway = if turn % 2 == 0 { server.address } else { other };
            let mut reader = follow(gateway, "/api/v1/events", Some(seen)).await;
            // It goes away in the middle of things, and comes back elsewhere.
            for _ in 0..7.min(end - seen) {
                let event = next(&mut reader).await;
                assert_eq!(event.seq, seen + 1, "after {turn} connections");
                seen = event.seq;
            }
        }
    };
    tokio::time::timeout(LONG, read).await.unwrap();
    writers.join_all().await;
    assert_eq!(server.queue.store().newest_event().await.unwrap(), end);
    stop_other.cancel();
}

#[tokio::test]
async fn a_reader_that_comes_back_too_late_is_told_what_it_missed() {
    let server = Server::start().await;
    let workspace = server.workspace("w").await;
    let prompt = server.prompt(&workspace).await;
    let run = RunRef::Prompt(prompt.id);
    let _ = server.queue.finish_run(run, aetherium_model::run::RunState::Cancelled, now()).await;
    let newest = server.queue.store().newest_event().await.unwrap();
    let keep = aetherium_store::LogBounds { events: 1, ..Default::default() };
    server.queue.store().prune_events(now(), keep).await.unwrap();
    let mut reader = follow(server.address, "/api/v1/events", Some(1)).await;
    let block = reader.block().await.unwrap();
    assert!(block.contains("event: missing"), "{block}");
    assert!(block.contains(&format!("{{\"oldest\":{newest}}}")), "{block}");
    let event = next(&mut reader).await;
    assert_eq!((event.seq, event.kind), (newest, EventType::PromptCancelled));
}
