//! Event streams: every event once and in order, wherever a reader begins and however slow it is.

use crate::server::{KEY, LONG, Server, completed, now};
use aetherium_model::{
    output::{EventBody, OutputEvent, Stream},
    run::RunState,
};
use aetherium_store::RunRef;
use http::StatusCode;
use std::{collections::HashMap, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
};

/// A reader of server-sent events with nothing in between: HTTP/1.1 chunks over a socket.
pub(crate) struct Reader {
    lines: BufReader<TcpStream>,
    status: u16,
    pub(crate) headers: HashMap<String, String>,
    /// What of the current chunk was not read yet.
    rest: usize,
    text: Vec<u8>,
}

impl Reader {
    async fn open(server: &Server, path: &str, last_event_id: Option<i64>) -> Self {
        let stream = TcpStream::connect(server.address).await.unwrap();
        Self::over(stream, path, last_event_id, "*/*").await
    }

    pub(crate) async fn over(
        mut stream: TcpStream,
        path: &str,
        last_event_id: Option<i64>,
        accept: &str,
    ) -> Self {
        let last = last_event_id.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\naccept: {accept}\r\nconnection: close\r\n{last}\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        lines.read_line(&mut line).await.unwrap();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = HashMap::new();
        loop {
            line.clear();
            lines.read_line(&mut line).await.unwrap();
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            headers.insert(name.to_owned(), value.to_owned());
        }
        Self { lines, status, headers, rest: 0, text: Vec::new() }
    }

    /// The next block of lines up to an empty one, or `None` at the stream's end.
    pub(crate) async fn block(&mut self) -> Option<String> {
        loop {
            // An event ends a chunk, so that looking at its end is enough.
            if self.rest == 0 && self.text.ends_with(b"\n\n") {
                let block = std::mem::take(&mut self.text);
                return Some(String::from_utf8(block).unwrap());
            }
            if self.rest == 0 {
                let mut size = String::new();
                tokio::time::timeout(LONG, self.lines.read_line(&mut size)).await.unwrap().ok()?;
                self.rest = usize::from_str_radix(size.trim(), 16).ok().filter(|size| *size > 0)?;
            }
            let mut piece = vec![0; self.rest.min(64 * 1024)];
            let read = self.lines.read(&mut piece).await.unwrap();
            assert!(read > 0, "the stream was cut off");
            self.text.extend(&piece[..read]);
            self.rest -= read;
            if self.rest == 0 {
                self.lines.read_line(&mut String::new()).await.unwrap();
            }
        }
    }

    /// The next event, after checking that its lines agree with its data.
    async fn event(&mut self) -> Option<OutputEvent> {
        loop {
            let block = self.block().await?;
            if block.starts_with(':') {
                continue;
            }
            let field = |name: &str| {
                block
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .unwrap_or_else(|| panic!("{block}"))
            };
            let event: OutputEvent = serde_json::from_str(field("data: ")).unwrap();
            assert_eq!(field("id: "), event.seq.to_string());
            let json = serde_json::to_value(&event).unwrap();
            assert_eq!(field("event: "), json["type"].as_str().unwrap());
            return Some(event);
        }
    }

    async fn rest(mut self) -> Vec<OutputEvent> {
        let mut events = Vec::new();
        while let Some(event) = self.event().await {
            events.push(event);
        }
        events
    }
}

fn text(text: impl ToString) -> EventBody {
    EventBody::Output { stream: Stream::Stdout, text: text.to_string() }
}

fn numbers(events: &[OutputEvent]) -> Vec<i64> {
    events.iter().map(|event| event.seq).collect()
}

/// A running execution, where to append to it, and where to follow it.
async fn running(server: &Server) -> (RunRef, String) {
    let vm = server.vm().await;
    let execution = server.execution(&vm).await;
    (RunRef::Execution(execution.id), format!("/api/v1/executions/{}", execution.id))
}

async fn append(server: &Server, run: RunRef, body: EventBody) {
    server.queue.append_events(run, vec![(now(), body)]).await.unwrap();
}

async fn end(server: &Server, run: RunRef) {
    let _ = server.queue.finish_run(run, completed(0), now()).await.unwrap();
}

#[tokio::test]
async fn a_stream_replays_then_follows_then_ends_after_the_end() {
    let server = Server::start().await;
    let (run, path) = running(&server).await;
    append(&server, run, text("one\nline and ä")).await;
    append(&server, run, EventBody::OutputBytes { stream: Stream::Stderr, hex: "ff".into() }).await;
    let mut reader = Reader::open(&server, &format!("{path}/events"), None).await;
    assert_eq!(reader.status, 200);
    assert_eq!(reader.headers["content-type"], "text/event-stream");
    assert!(reader.headers.contains_key("x-request-id"));
    assert_eq!(reader.event().await.unwrap().body, text("one\nline and ä"));
    assert_eq!(reader.event().await.unwrap().seq, 2);
    append(&server, run, text("live")).await;
    assert_eq!(reader.event().await.unwrap().body, text("live"));
    end(&server, run).await;
    let last = reader.event().await.unwrap();
    assert_eq!((last.seq, last.body), (4, EventBody::End { state: completed(0) }));
    assert_eq!(reader.block().await, None);
}

#[tokio::test]
async fn a_prompts_stream_begins_before_it_runs_and_ends_when_it_is_cancelled() {
    let server = Server::start().await;
    let workspace = server.workspace("w").await;
    let prompt = server.prompt(&workspace).await;
    let path = format!("/api/v1/workspaces/w/prompts/{}", prompt.id);
    let reader = Reader::open(&server, &format!("{path}/events"), None).await;
    assert_eq!(server.post(&format!("{path}/cancel"), "").await.status, StatusCode::OK);
    let events = reader.rest().await;
    assert_eq!(events.last().unwrap().body, EventBody::End { state: RunState::Cancelled });
}

#[tokio::test]
async fn from_wherever_a_reader_resumes_it_sees_exactly_what_follows() {
    let server = Server::start().await;
    let (run, path) = running(&server).await;
    // Some pages of what the gateway reads at once, and their borders.
    let events: Vec<_> = (1..=70).map(|n| (now(), text(n))).collect();
    server.queue.append_events(run, events).await.unwrap();
    end(&server, run).await;
    for seen in [0, 1, 15, 16, 17, 38, 39, 54, 55, 69, 70] {
        let by_header = Reader::open(&server, &format!("{path}/events?after=5"), Some(seen)).await;
        assert_eq!(numbers(&by_header.rest().await), Vec::from_iter(seen + 1..=71));
        let by_query = Reader::open(&server, &format!("{path}/events?after={seen}"), None).await;
        assert_eq!(numbers(&by_query.rest().await), Vec::from_iter(seen + 1..=71));
    }
    for seen in [71, 72, i64::MAX] {
        let reader = Reader::open(&server, &format!("{path}/events"), Some(seen)).await;
        assert_eq!(reader.status, 204, "after {seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_loses_its_connection_again_and_again_misses_and_repeats_nothing() {
    const EVENTS: i64 = 400;
    let server = Server::start().await;
    let (run, path) = running(&server).await;
    let queue = server.queue.clone();
    let writer = tokio::spawn(async move {
        let mut next = 1;
        while next <= EVENTS {
            let batch = (next..=EVENTS.min(next + next % 7)).map(|n| (now(), text(n)));
            let batch: Vec<_> = batch.collect();
            next += i64::try_from(batch.len()).unwrap();
            queue.append_events(run, batch).await.unwrap();
            tokio::task::yield_now().await;
        }
        let _ = queue.finish_run(run, completed(0), now()).await.unwrap();
    });
    let mut seen = Vec::new();
    let mut connections = 0;
    // Each connection is dropped after some events, at another place each time.
    'reading: loop {
        connections += 1;
        let last = seen.last().map(|event: &OutputEvent| event.seq);
        let mut reader = Reader::open(&server, &format!("{path}/events"), last).await;
        for _ in 0..=connections % 13 {
            let event = reader.event().await.expect("a stream ends with its end only");
            let ended = matches!(event.body, EventBody::End { .. });
            seen.push(event);
            if ended {
                break 'reading;
            }
        }
    }
    writer.await.unwrap();
    assert!(connections > 20, "{connections}");
    assert_eq!(numbers(&seen), Vec::from_iter(1..=EVENTS + 1));
    for event in &seen[..seen.len() - 1] {
        assert_eq!(event.body, text(event.seq));
    }
}

#[tokio::test]
async fn a_quiet_stream_is_kept_alive_by_comments() {
    let quiet = Duration::from_millis(50);
    let server = Server::start_with(|config| config.keep_alive = quiet, |store| store).await;
    let (_, path) = running(&server).await;
    let mut reader = Reader::open(&server, &format!("{path}/events"), None).await;
    for _ in 0..2 {
        assert!(reader.block().await.unwrap().starts_with(':'));
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_workspace_is_removed() {
    let server = Server::start().await;
    let workspace = server.workspace("w").await;
    let prompt = server.prompt(&workspace).await;
    let mut reader =
        Reader::open(&server, &format!("/api/v1/prompts/{}/events", prompt.id), None).await;
    let kind = aetherium_model::task::TaskKind::WorkspaceDelete { workspace_id: workspace.id };
    let task = server.task(kind);
    server.queue.begin_delete_workspace(workspace.id, &task).await.unwrap();
    server.queue.store().remove_workspace(workspace.id, now()).await.unwrap();
    // Whether it saw the cancellation first depends on who was faster.
    while reader.event().await.is_some() {}
}

#[tokio::test]
async fn output_is_downloaded_as_it_was_written_by_stream_or_both() {
    let server = Server::start().await;
    let (run, path) = running(&server).await;
    append(&server, run, EventBody::Status { stage: "running".into(), message: "x".into() }).await;
    append(&server, run, text("out")).await;
    append(&server, run, EventBody::OutputBytes { stream: Stream::Stderr, hex: "fffe".into() })
        .await;
    append(&server, run, text("put\n")).await;
    let get = async |query: &str| server.get(&format!("{path}/output{query}")).await.body;
    assert_eq!(get("?stream=stdout").await, &b"output\n"[..]);
    assert_eq!(get("?stream=stderr").await, &b"\xff\xfe"[..]);
    assert_eq!(get("").await, &b"out\xff\xfeput\n"[..]);
    let wrong = server.get(&format!("{path}/output?stream=stdin")).await;
    assert_eq!(wrong.problem().errors[0].field, "stream");
}

#[tokio::test]
async fn more_streams_than_allowed_are_answered_busy_and_a_closed_one_makes_room() {
    let server = Server::start_with(|config| config.max_streams = 1, |store| store).await;
    let (run, path) = running(&server).await;
    append(&server, run, text(1)).await;
    let path = format!("{path}/events");
    let mut first = Reader::open(&server, &path, None).await;
    first.event().await.unwrap();
    let answer = server.get(&path).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.problem().code.as_str(), "busy");
    drop(first);
    let room = async {
        while Reader::open(&server, &path, None).await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, room).await.expect("the place must come free");
}

/// Memory in use by this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_do_not_read_cost_little_and_miss_nothing_when_they_do() {
    const READERS: usize = 8;
    const EVENTS: i64 = 160;
    const BYTES: usize = 48 * 1024;
    let server = Server::start().await;
    let (run, path) = running(&server).await;
    let path = format!("{path}/events");
    let before = resident();
    let mut readers = Vec::new();
    for _ in 0..READERS {
        // A small window, so that the kernel's buffers do not hide who holds the rest.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 * 1024).unwrap();
        let stream = socket.connect(server.address).await.unwrap();
        readers.push(Reader::over(stream, &path, None, "*/*").await);
    }
    let block = "x".repeat(BYTES);
    for _ in 0..EVENTS / 10 {
        let batch = (0..10).map(|_| (now(), text(&block))).collect();
        server.queue.append_events(run, batch).await.unwrap();
    }
    end(&server, run).await;
    // One that does read is not held up by those that do not.
    let quick = Reader::open(&server, &path, None).await.rest().await;
    assert_eq!(numbers(&quick), Vec::from_iter(1..=EVENTS + 1));
    drop(quick);
    let grown = resident().saturating_sub(before) / (1024 * 1024);
    let all = READERS * usize::try_from(EVENTS).unwrap() * BYTES / (1024 * 1024);
    assert!(all > 55 && grown < all / 2, "{grown} MiB for readers of {all} MiB");
    for reader in readers {
        assert_eq!(numbers(&reader.rest().await), Vec::from_iter(1..=EVENTS + 1));
    }
}

#[tokio::test]
async fn a_reader_that_never_reads_again_loses_its_connection() {
    let patience = Duration::from_millis(200);
    let server = Server::start_with(
        |config| {
            config.write_stall_timeout = patience;
            config.max_streams = 1;
        },
        |store| store,
    )
    .await;
    let (run, path) = running(&server).await;
    let path = format!("{path}/events");
    let stalled = Reader::open(&server, &path, None).await;
    // More than the kernel's buffers take.
    for _ in 0..250 {
        append(&server, run, text("x".repeat(60 * 1024))).await;
    }
    let freed = async {
        while Reader::open(&server, &path, None).await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, freed).await.expect("its place must come free");
    drop(stalled);
}
