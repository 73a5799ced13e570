//! What operators see: metrics as the manual lists them, readiness, logs and traces that follow a prompt.

use crate::world::{AETHERIUM, Place, SOON, Server, http, id};
use aetherium_model::resources::DriverKind;
use axum::{Router, body::Bytes, extract::State, routing::post};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use test_servers::Postgres;
use tokio_util::task::AbortOnDropHandle;

/// The address of a server's operations listener, as its log says it.
async fn operations(server: &Server<'_>) -> String {
    let deadline = Instant::now() + SOON;
    loop {
        let log = server.log();
        let said = log.lines().rfind(|line| line.contains("operations: /metrics"));
        if let Some(line) = said {
            let after = |mark| line.split_once(mark).map(|(_, rest)| rest);
            let rest = after("address=").or(after("\"address\":\"")).unwrap();
            let address = rest.split(['"', ' ']).next().unwrap();
            return format!("http://{address}");
        }
        assert!(Instant::now() < deadline, "no operations listener\n{log}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn scrape(operations: &str) -> String {
    let answer = http().get(format!("{operations}/metrics")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.text().await.unwrap()
}

/// Names and types of what was printed, as they are asked for.
fn printed(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            (format!("{name}{suffix}"), kind.to_owned())
        })
        .collect()
}

/// Names and types of what the manual says that these roles print.
fn documented(roles: &[&str]) -> BTreeMap<String, String> {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let manual = fs::read_to_string(manual).unwrap();
    let rows = manual.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    cells
        .filter(|cells| cells.len() > 3 && (roles.contains(&cells[2]) || cells[2] == "all"))
        .map(|cells| (cells[0].trim_end_matches('`').to_owned(), cells[1].to_owned()))
        .collect()
}

/// The value of a line of metrics.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

#[tokio::test]
async fn the_manual_lists_every_metric_and_none_tells_an_id() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let operations = operations(&server).await;
    let workspace = server.workspace("watched").await;
    assert_eq!(server.answer(&workspace, "echo one").await, "one\n");
    let text = scrape(&operations).await;
    assert_eq!(printed(&text), documented(&["gateway", "worker"]));

    assert_eq!(value(&text, r#"aetherium_tasks_accepted_total{kind="prompt:execute"}"#), 1.0);
    assert_eq!(
        value(&text, r#"aetherium_task_dispatch_seconds_count{kind="prompt:execute"}"#),
        1.0
    );
    let ended = r#"aetherium_runs_finished_total{kind="prompt",outcome="completed"}"#;
    assert_eq!(value(&text, ended), 1.0);
    assert_eq!(value(&text, r#"aetherium_vms{state="running"}"#), 1.0);
    assert_eq!(value(&text, r#"aetherium_fleet_vms{state="running"}"#), 1.0);
    assert_eq!(value(&text, r#"aetherium_vm_agents{transport="unix"}"#), 1.0);
    let boots = r#"aetherium_vm_boot_seconds_count{driver="process",origin="kernel"}"#;
    assert_eq!(value(&text, boots), 1.0);
    let route = r#"route="/api/v1/workspaces/{workspace}/prompts",method="POST",status="2xx""#;
    let series = format!("aetherium_http_request_duration_seconds_count{{{route}}}");
    assert_eq!(value(&text, &series), 1.0);
    let vm = server.get(&workspace).await["vm_id"].as_str().unwrap().to_owned();
    for secret in
        [vm.as_str(), workspace.trim_start_matches("/workspaces/"), server.key(), "watched"]
    {
        assert!(!text.contains(secret), "{secret} is told\n{text}");
    }

    let ready = http().get(format!("{operations}/ready")).send().await.unwrap();
    let (status, told) = (ready.status(), ready.json::<Value>().await.unwrap());
    assert_eq!((status.as_u16(), &told["ready"]), (200, &json!(true)), "{told:#}");
    server.stop().await;
    place.assert_no_vm_is_left();
}

/// A span as a collector gets it.
#[derive(Debug, Clone)]
struct Span {
    service: String,
    name: String,
    trace: String,
    id: String,
    parent: String,
}

/// Takes spans by OTLP over HTTP.
struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Span>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Collector {
    async fn start() -> Self {
        let spans = Arc::<Mutex<Vec<Span>>>::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&spans));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, spans, _serving: AbortOnDropHandle::new(serving) }
    }

    /// The spans of a trace, once `wanted` holds of them.
    async fn until(&self, trace: &str, wanted: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let deadline = Instant::now() + SOON;
        loop {
            let mut spans = self.spans.lock().unwrap().clone();
            spans.retain(|span| span.trace == trace);
            if wanted(&spans) {
                return spans;
            }
            assert!(Instant::now() < deadline, "the trace stays at {spans:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn take(State(taken): State<Arc<Mutex<Vec<Span>>>>, body: Bytes) {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for of_service in ExportTraceServiceRequest::decode(body).unwrap().resource_spans {
        let attributes = of_service.resource.unwrap().attributes;
        let service = attributes.into_iter().find(|it| it.key == "service.name").unwrap();
        let service = format!("{:?}", service.value.unwrap().value);
        for span in of_service.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            taken.lock().unwrap().push(Span {
                service: service.clone(),
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
            });
        }
    }
}

/// The lines of a log that are objects, which have this field with this value.
fn lines_with(log: &str, field: &str, value: &str) -> Vec<Value> {
    let lines = log.lines().filter(|line| line.starts_with('{'));
    let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line[field] == value).collect()
}

#[tokio::test]
async fn one_prompt_is_one_trace_over_gateway_worker_and_agent_and_its_ids_are_in_the_logs() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const CALLER: &str = "00f067aa0ba902b7";
    let collector = Collector::start().await;
    let (one, two) = (Place::new(), Place::new());
    let key = one.path().join("fleet-key");
    fs::write(&key, "a secret that only this fleet knows").unwrap();
    let database = Postgres::of_this_process().database();
    let shared = [
        "--listen",
        "127.0.0.1:0",
        "--database",
        &database,
        "--fleet-key-file",
        key.to_str().unwrap(),
        "--otlp-endpoint",
        &collector.url,
        "--log-format",
        "json",
    ];
    let gateway = Server::start_role(&one, &[&["gateway"], &shared[..]].concat()).await;
    let worker = Server::spawn(&two, &[&["worker", "--driver", "process"], &shared[..]].concat());
    gateway.until("/workers", SOON, |it| it["items"][0]["state"] == "active").await;
    let workspace = gateway.workspace("traced").await;

    let sent = http()
        .post(format!("{}/api/v1{workspace}/prompts", gateway.url()))
        .bearer_auth(gateway.key())
        .header("traceparent", format!("00-{TRACE}-{CALLER}-01"))
        .header("x-request-id", "asked-by-the-test")
        .json(&json!({ "prompt": "echo $TRACEPARENT; echo prompt-secret" }))
        .send()
        .await
        .unwrap();
    assert_eq!(sent.headers()["x-request-id"], "asked-by-the-test");
    let made: Value = sent.json().await.unwrap();
    let path = format!("{workspace}/prompts/{}", id(&made));
    let (_, output) = gateway.ended(&path).await;
    assert!(output.starts_with(&format!("00-{TRACE}-")), "the command has no place: {output}");
    let task = made["task_id"].as_str().unwrap();
    let kept = gateway.get(&format!("/tasks/{task}")).await;
    assert!(kept["trace"].as_str().unwrap().contains(TRACE), "{kept:#}");

    let named = |spans: &[Span], service: &str, name: &str| {
        spans.iter().any(|span| span.service.contains(service) && span.name == name)
    };
    let spans = collector.until(TRACE, |spans| {
        named(spans, "aetherium-gateway", "request")
            && ["task", "vm.start", "agent.call"]
                .iter()
                .all(|it| named(spans, "aetherium-worker", it))
    });
    let spans = spans.await;
    for span in &spans {
        let known = span.parent == CALLER || spans.iter().any(|it| it.id == span.parent);
        assert!(known, "{span:?} has a parent that nobody knows\n{spans:#?}");
    }

    let access = lines_with(&gateway.log(), "request_id", "asked-by-the-test");
    assert!(access.iter().any(|line| line["trace_id"] == TRACE), "{}", gateway.log());
    let lines = lines_with(&worker.log(), "trace_id", TRACE);
    let complete = |line: &&Value| {
        ["task", "prompt", "workspace", "worker", "vm"].iter().all(|it| line[*it].is_string())
    };
    assert!(lines.iter().any(|line| complete(&line)), "{}", worker.log());
    for (server, role) in [(&gateway, "gateway"), (&worker, "worker")] {
        let text = scrape(&operations(server).await).await;
        assert_eq!(printed(&text), documented(&[role]), "{role}");
        let log = server.log();
        assert!(!log.contains("prompt-secret") && !log.contains(gateway.key()), "{log}");
    }
    worker.stop().await;
    gateway.stop().await;
    two.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_worker_that_cannot_work_is_not_ready_and_says_why() {
    let place = Place::new();
    let server = Server::start_with(&place, DriverKind::Qemu, &["--qemu", AETHERIUM]).await;
    let operations = operations(&server).await;
    let ready = http().get(format!("{operations}/ready")).send().await.unwrap();
    assert_eq!(ready.status(), 503);
    let told: Value = ready.json().await.unwrap();
    let failed = told["checks"].as_array().unwrap().iter().find(|it| it["verdict"] == "fail");
    assert!(failed.unwrap()["remedy"].as_str().is_some_and(|it| !it.is_empty()), "{told:#}");
    // It lives all the same.
    assert_eq!(http().get(format!("{operations}/health")).send().await.unwrap().status(), 200);
    server.stop().await;
}

#[tokio::test]
async fn status_tells_on_one_screen_what_is_wrong_and_top_what_vms_use() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let workspace = server.workspace("shown").await;
    assert_eq!(server.answer(&workspace, "echo one").await, "one\n");
    let said = |args: &[&str]| {
        let ran = place.aetherium().args(args).output().unwrap();
        (ran.status.code(), String::from_utf8(ran.stdout).unwrap())
    };
    let (code, screen) = said(&["status"]);
    assert_eq!(code, Some(0), "{screen}");
    for wanted in
        [": healthy\n", "workers  1 active\n", "VMs      1 running\n", "waiting  nothing\n"]
    {
        assert!(screen.contains(wanted), "no {wanted:?} in\n{screen}");
    }
    let (_, table) = said(&["top", "--once"]);
    assert!(table.lines().nth(1).is_some_and(|row| row.contains("  shown  ")), "{table}");
    let (_, rows) = said(&["top", "--json"]);
    let rows: Value = serde_json::from_str(&rows).unwrap();
    assert!(rows[0]["memory_bytes"].as_u64().is_some_and(|it| it > 0), "{rows:#}");
    assert!(rows[0]["cpu_percent"].is_number(), "{rows:#}");
    server.stop().await;

    let server = Server::start_with(&place, DriverKind::Qemu, &["--qemu", AETHERIUM]).await;
    let (code, screen) = said(&["status"]);
    assert_eq!(code, Some(1), "{screen}");
    assert!(screen.contains(": not healthy\n") && screen.contains("what to do: "), "{screen}");
    let (code, told) = said(&["status", "--json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((code, &told["healthy"]), (Some(1), &json!(false)), "{told:#}");
    server.stop().await;
}
