//! Commands and prompts: their streams, their ends, their order. Over the process driver, which
//! runs the same agent without the boot.

use crate::world::{Place, SOON, Server, http, id, state};
use aetherium_model::resources::DriverKind;
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn a_command_answers_with_its_streams_apart_and_its_exit_code() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let vm = server.vm(json!({})).await;
    let path = format!("/vms/{}", id(&vm));
    let body = json!({ "argv": ["sh", "-c", "echo out; echo err >&2; echo $WORD; pwd; exit 7"],
                       "env": { "WORD": "given" }, "cwd": "/tmp" });
    let ran = server.post(&format!("{path}/execute"), body).await;
    assert_eq!(ran["stdout"], "out\ngiven\n/tmp\n");
    assert_eq!(ran["stderr"], "err\n");
    assert_eq!(ran["result"]["exit_code"], 7);
    // A non-zero exit is a result, and it is on record like any other.
    let id = ran["execution_id"].as_str().unwrap();
    let record =
        server.until(&format!("/executions/{id}"), SOON, |it| state(it) != "running").await;
    assert_eq!(state(&record), "completed");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_queued_command_runs_once_and_keeps_its_output() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let vm = server.vm(json!({})).await;
    let body = json!({ "argv": ["sh", "-c", "echo one; echo two >&2"], "async": true });
    let made = server.post(&format!("/vms/{}/execute", id(&vm)), body).await;
    let path = format!("/executions/{}", id(&made));
    let end = server.until(&path, SOON, |it| state(it) == "completed").await;
    assert_eq!(end["result"]["exit_code"], 0);
    let events = events(&server, &format!("{path}/events"), 0).await;
    let streams: Vec<_> =
        events.iter().filter(|it| it["type"] == "output").map(|it| &it["text"]).collect();
    assert_eq!(streams.len(), 2, "{events:#?}");
    assert_eq!(events.last().unwrap()["type"], "end");
    server.stop().await;
}

#[tokio::test]
async fn prompts_of_a_workspace_run_one_at_a_time_in_order() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let workspace = server.workspace("ordered").await;
    let log = place.path().join("effects");
    let mut prompts = Vec::new();
    for n in 0..12 {
        let line = format!(
            "echo begin {n} >> {log}; sleep 0.02; echo end {n} >> {log}",
            log = log.display()
        );
        prompts.push(server.prompt(&workspace, &line).await);
    }
    for prompt in &prompts {
        assert_eq!(state(&server.ended(prompt).await.0), "completed");
    }
    let expected: String = (0..12).map(|n| format!("begin {n}\nend {n}\n")).collect();
    assert_eq!(std::fs::read_to_string(log).unwrap(), expected);
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_prompt_that_runs_can_be_cancelled_and_takes_its_whole_group_with_it() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let workspace = server.workspace("cancelled").await;
    let pids = place.path().join("pids");
    let line = format!("sleep 600 & echo $! > {p}.new; mv {p}.new {p}; wait", p = pids.display());
    let prompt = server.prompt(&workspace, &line).await;
    let waiting = server.prompt(&workspace, "echo never > /dev/null").await;
    wait_for_file(&pids).await;
    let pid = std::fs::read_to_string(&pids).unwrap().trim().to_owned();

    server.post(&format!("{waiting}/cancel"), json!({})).await;
    server.post(&format!("{prompt}/cancel"), json!({})).await;
    let end = server.until(&prompt, SOON, |it| state(it) != "running").await;
    assert_eq!(state(&end), "cancelled");
    assert_eq!(state(&server.get(&waiting).await), "cancelled");
    let alive = std::path::Path::new("/proc").join(pid);
    wait_until("the command's child is gone", || !alive.exists()).await;
    // The workspace goes on.
    assert_eq!(server.answer(&workspace, "echo next").await, "next\n");
    server.stop().await;
}

#[tokio::test]
async fn a_prompts_time_limit_ends_it_in_the_guest() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let workspace = server.workspace("limited").await;
    let body = json!({ "prompt": "echo started; sleep 600", "timeout_ms": 300 });
    let made = server.post(&format!("{workspace}/prompts"), body).await;
    let (end, output) = server.ended(&format!("{workspace}/prompts/{}", id(&made))).await;
    assert_eq!(end["result"]["exit"]["kind"], "timed_out", "{end:#}");
    assert_eq!(end["result"]["exit_code"], 124);
    assert_eq!(output, "started\n");
    server.stop().await;
}

#[tokio::test]
async fn a_command_that_cannot_start_says_why() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let vm = server.vm(json!({})).await;
    let path = format!("/vms/{}/execute", id(&vm));
    for (body, code, word) in [
        (json!({ "argv": ["no-such-program"] }), "command_not_found", "no-such-program"),
        (json!({ "argv": ["true"], "cwd": "/no/such/place" }), "spawn_failed", "/no/such/place"),
        (json!({ "argv": ["true"], "user": "nobody-here" }), "spawn_failed", "nobody-here"),
    ] {
        let (status, problem) = server.call(reqwest::Method::POST, &path, Some(body)).await;
        assert!(status.is_client_error(), "{status} {problem:#}");
        assert_eq!(problem["code"], code, "{problem:#}");
        assert!(problem["detail"].as_str().unwrap().contains(word), "{problem:#}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_reader_that_comes_back_misses_nothing_and_sees_nothing_twice() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let workspace = server.workspace("resumed").await;
    let prompt =
        server.prompt(&workspace, "for n in 1 2 3 4 5; do echo line $n; sleep 0.05; done").await;
    let all = events(&server, &format!("{prompt}/events"), 0).await;
    let numbers: Vec<i64> = all.iter().map(|it| it["seq"].as_i64().unwrap()).collect();
    let expected: Vec<i64> = (1..=i64::try_from(all.len()).unwrap()).collect();
    assert_eq!(numbers, expected);
    for after in 0..all.len() {
        let rest = events(&server, &format!("{prompt}/events"), after).await;
        assert_eq!(rest, all[after..], "after {after}");
    }
    server.stop().await;
}

#[tokio::test]
async fn output_beyond_the_limit_is_dropped_and_said_to_be() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let workspace = server.workspace("loud").await;
    let prompt =
        server.prompt(&workspace, "head -c 20000000 /dev/zero | tr '\\0' x; echo done >&2").await;
    let (end, output) = server.ended(&prompt).await;
    assert_eq!(end["result"]["exit_code"], 0, "{end:#}");
    let all = events(&server, &format!("{prompt}/events"), 0).await;
    let notes: Vec<_> = all.iter().filter(|it| it["type"] == "truncated").collect();
    assert_eq!(notes.len(), 1);
    assert_eq!(notes[0]["kept_bytes"], output.len());
    // What does not fit whole is dropped: at most the limit, and not much less.
    let limit = 16 * 1024 * 1024;
    assert!((limit - 1024 * 1024..=limit).contains(&output.len()), "{}", output.len());
    server.stop().await;
}

/// The events of a run from after a number to its end, by an event stream.
async fn events(server: &Server<'_>, path: &str, after: usize) -> Vec<Value> {
    let request = http()
        .get(format!("{}/api/v1{path}", server.url()))
        .bearer_auth(server.key())
        .header("Last-Event-ID", after.to_string())
        .timeout(Duration::from_secs(60));
    let body = request.send().await.unwrap().text().await.unwrap();
    let data = body.lines().filter_map(|line| line.strip_prefix("data:"));
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

async fn wait_for_file(path: &std::path::Path) {
    wait_until(&format!("{} exists", path.display()), || path.exists()).await;
}

async fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + SOON;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
