//! Assistants: definitions that turn prompts into commands, what they say while they work, and the
//! conversations that go on from prompt to prompt.

mod programs;

use crate::world::{BOOT, Place, Server, id, state};
use aetherium_model::resources::DriverKind;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Output};

/// An assistant that tells what it was given, as lines of JSON between others.
const SCRIPT: &str = r#"#!/bin/sh
given="$*"
session=talk-$$
while [ "$1" != -- ]; do
  [ "$1" = --session ] && session=$2
  shift
done
shift
printf '%s' "$MCP" > "$HOME/mcp.json"
echo "$1" >> "$HOME/$session.talk"
echo 'garbage { "begin":'
printf '{"begin":"%s"}\n{"say":"given %s"}\n' "$session" "$given"
case $1 in wait) printf '{"tool":"wait","with":{"for":"ever"}}\n'; exec sleep 600;; esac
printf '{"cost":0.25,"read":7}\n{"done":true,"answer":"%s of %s"}' "$(wc -l < "$HOME/$session.talk")" "$1"
"#;

const DEFINITION: &str = r#"
name = "scripted"
description = "A script"

[prompt]
argv = [
    "SCRIPT", "{permissions}", ["--model", "{model}"], ["--system={system_prompt}"],
    ["--session", "{session}"], "--", "{prompt}",
]
env = { MCP = "{mcp_config}" }

[permissions]
default = "plan"
plan = ["--look"]
all = ["--do", "it"]

[session]
file = "{session}.talk"

[mcp]
format = "json"
deliver = "inline"
stdio = { run = ["{command}", "{args}"], env = "{env}" }
http = { url = "{url}", headers = "{headers}" }

[[output.events]]
make.session = { session = "/begin" }

[[output.events]]
make.text = { text = "/say" }

[[output.events]]
when = { "/tool" = "wait" }
make.tool_use = { name = "/tool", input = "/with" }

[[output.events]]
make.cost = { usd = "/cost", input_tokens = "/read" }

[[output.events]]
when = { "/done" = true }
make.result = { text = "/answer" }
"#;

/// A directory with the assistant, and the home that it has its conversations in.
fn with_assistant(place: &Place) {
    let script = place.path().join("scripted.sh");
    fs::write(&script, SCRIPT).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let directory = place.path().join("catalog/assistants");
    fs::create_dir_all(&directory).unwrap();
    fs::create_dir(place.path().join("home")).unwrap();
    let definition = DEFINITION.replace("SCRIPT", script.to_str().unwrap());
    fs::write(directory.join("scripted.toml"), definition).unwrap();
}

/// A workspace with an assistant, whose home is the place's.
async fn workspace(server: &Server<'_>, assistant: &str, mut setup: Value) -> String {
    setup["env"]["HOME"] = json!(server.place.path().join("home"));
    let body = json!({ "name": assistant, "ai_assistant": assistant, "setup": setup });
    format!("/workspaces/{}", id(&server.post("/workspaces", body).await))
}

/// Sends a prompt and returns its path.
async fn send(server: &Server<'_>, workspace: &str, body: Value) -> String {
    let made = server.post(&format!("{workspace}/prompts"), body).await;
    format!("{workspace}/prompts/{}", id(&made))
}

/// The entries of a prompt's log that are of one type, until it ends.
async fn told(server: &Server<'_>, prompt: &str, kind: &str) -> Vec<Value> {
    let text = server.get(&format!("{prompt}/events")).await;
    let lines = text.as_str().unwrap().lines().filter_map(|line| line.strip_prefix("data:"));
    let entries = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    entries.filter(|it| it["type"] == kind).collect()
}

/// The texts of what an assistant said.
fn said(events: &[Value]) -> Vec<&str> {
    events.iter().filter(|it| it["kind"] == "text").map(|it| it["text"].as_str().unwrap()).collect()
}

fn session(events: &[Value]) -> String {
    let told: Vec<_> = events.iter().filter(|it| it["kind"] == "session").collect();
    assert_eq!(told.len(), 1, "{events:#?}");
    told[0]["session"].as_str().unwrap().to_owned()
}

fn aetherium(place: &Place, arguments: &[&str]) -> Output {
    place.aetherium().args(arguments).output().unwrap()
}

#[tokio::test]
async fn options_reach_the_assistant_and_what_it_says_is_told_beside_what_it_prints() {
    let place = Place::new();
    with_assistant(&place);
    let server = Server::start(&place, DriverKind::Process).await;
    let setup = json!({
        "env": { "WHO": "World" },
        "mcp_servers": { "a": { "type": "stdio", "command": "say", "args": ["${WHO}"] } },
        "assistant": { "model": "small", "permission_mode": "all" },
    });
    let workspace = workspace(&server, "scripted", setup).await;
    let body =
        json!({ "prompt": "-one", "assistant": { "model": "large", "system_prompt": "Be brief" } });
    let prompt = send(&server, &workspace, body).await;
    let events = told(&server, &prompt, "assistant").await;
    assert_eq!(said(&events), ["given --do it --model large --system=Be brief -- -one"]);
    let cost = events.iter().find(|it| it["kind"] == "cost").unwrap();
    assert_eq!((&cost["usd"], &cost["input_tokens"]), (&json!(0.25), &json!(7)));
    let answer = events.last().unwrap();
    assert_eq!((&answer["kind"], &answer["text"]), (&json!("result"), &json!("1 of -one")));
    let mcp = fs::read_to_string(place.path().join("home/mcp.json")).unwrap();
    let mcp: Value = serde_json::from_str(&mcp).unwrap();
    assert_eq!(mcp, json!({ "a": { "run": ["say", "World"], "env": {} } }));
    let printed = server.ended(&prompt).await.1;
    assert!(printed.starts_with("garbage {") && printed.ends_with("1 of -one\"}"), "{printed}");

    let shown = aetherium(&place, &["ws", "prompt", "scripted", "two"]);
    let (out, err) =
        (String::from_utf8(shown.stdout).unwrap(), String::from_utf8(shown.stderr).unwrap());
    assert!(shown.status.success(), "{err}");
    assert!(out.starts_with("garbage {") && out.contains("\ngiven --do it --model small"), "{out}");
    assert!(!out.contains("{\"say\"") && err.contains("cost: $0.2500"), "{out}\n{err}");
    let raw = aetherium(&place, &["ws", "prompt", "scripted", "three", "--raw"]);
    assert!(String::from_utf8(raw.stdout).unwrap().contains("{\"say\""));
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_conversation_goes_on_across_vms_until_a_prompt_begins_another_or_its_file_is_gone() {
    let place = Place::new();
    with_assistant(&place);
    let server = Server::start(&place, DriverKind::Process).await;
    let workspace = workspace(&server, "scripted", json!({})).await;
    let ask = async |text: &str, new: bool| {
        let body = json!({ "prompt": text, "new_session": new });
        let prompt = send(&server, &workspace, body).await;
        let events = told(&server, &prompt, "assistant").await;
        let printed = server.ended(&prompt).await.1;
        (session(&events), printed, prompt)
    };
    let (first, printed, _) = ask("one", false).await;
    assert!(printed.ends_with("1 of one\"}"), "{printed}");
    let vm = server.get(&workspace).await["vm_id"].as_str().unwrap().to_owned();
    server.delete(&format!("/vms/{vm}")).await;
    server.until(&format!("/vms/{vm}"), BOOT, |vm| state(vm) == "stopped").await;
    let (second, printed, _) = ask("two", false).await;
    assert_eq!(second, first);
    assert!(printed.ends_with("2 of two\"}"), "{printed}");
    assert_ne!(server.get(&workspace).await["vm_id"], json!(vm));

    let (third, printed, _) = ask("three", true).await;
    assert_ne!(third, first);
    assert!(printed.ends_with("1 of three\"}"), "{printed}");
    fs::remove_file(place.path().join(format!("home/{third}.talk"))).unwrap();
    let (fourth, printed, prompt) = ask("four", false).await;
    assert_ne!(fourth, third);
    assert!(printed.ends_with("1 of four\"}"), "{printed}");
    let stages = told(&server, &prompt, "status").await;
    assert!(stages.iter().any(|it| it["stage"] == "session_lost"), "{stages:#?}");
    assert_eq!(server.get(&workspace).await["session"], json!(fourth));
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_prompt_that_is_cancelled_has_told_what_it_did_and_its_conversation_goes_on() {
    let place = Place::new();
    with_assistant(&place);
    let server = Server::start(&place, DriverKind::Process).await;
    let workspace = workspace(&server, "scripted", json!({})).await;
    let prompt = send(&server, &workspace, json!({ "prompt": "wait" })).await;
    let output = format!("{prompt}/output?stream=stdout");
    server.until(&output, BOOT, |it| it.as_str().is_some_and(|it| it.contains("for"))).await;
    server.post(&format!("{prompt}/cancel"), json!({})).await;
    let events = told(&server, &prompt, "assistant").await;
    let tool = events.iter().find(|it| it["kind"] == "tool_use").unwrap();
    assert_eq!((&tool["name"], &tool["input"]), (&json!("wait"), &json!({ "for": "ever" })));
    assert_eq!(state(&server.ended(&prompt).await.0), "cancelled");
    let next = send(&server, &workspace, json!({ "prompt": "on" })).await;
    assert_eq!(session(&told(&server, &next, "assistant").await), session(&events));
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn what_was_said_is_told_once_though_its_worker_was_killed_meanwhile() {
    let place = Place::new();
    with_assistant(&place);
    let server = Server::start(&place, DriverKind::Process).await;
    let workspace = workspace(&server, "scripted", json!({})).await;
    let prompt = send(&server, &workspace, json!({ "prompt": "wait" })).await;
    let output = format!("{prompt}/output?stream=stdout");
    server.until(&output, BOOT, |it| it.as_str().is_some_and(|it| it.contains("for"))).await;
    server.kill();
    let server = Server::start(&place, DriverKind::Process).await;
    server.until(&prompt, BOOT, |it| state(it) == "running").await;
    server.post(&format!("{prompt}/cancel"), json!({})).await;
    server.ended(&prompt).await;
    let events = told(&server, &prompt, "assistant").await;
    assert_eq!(said(&events).len(), 1, "{events:#?}");
    assert_eq!(server.get(&workspace).await["session"], json!(session(&events)));
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn what_an_assistant_cannot_do_is_refused_when_it_is_asked() {
    let place = Place::new();
    with_assistant(&place);
    let server = Server::start(&place, DriverKind::Process).await;
    let refused = async |path: String, body: Value| {
        let (status, problem) = server.call(Method::POST, &path, Some(body)).await;
        assert!(status.is_client_error(), "{status} {problem:#}");
        problem
    };
    let scripted = workspace(&server, "scripted", json!({})).await;
    let prompts = format!("{scripted}/prompts");
    let body = json!({ "prompt": "x", "assistant": { "permission_mode": "edits" } });
    let problem = refused(prompts.clone(), body).await;
    assert_eq!(problem["errors"][0]["field"], "assistant.permission_mode", "{problem:#}");
    let problem = refused(prompts, json!({ "prompt": "x".repeat(200_000) })).await;
    assert_eq!(problem["errors"][0]["field"], "prompt", "{problem:#}");
    let body = json!({ "name": "no", "setup": { "assistant": { "model": "large" } } });
    let problem = refused("/workspaces".to_owned(), body).await;
    assert_eq!(problem["errors"][0]["field"], "setup.assistant.model", "{problem:#}");

    // It has no login, so that without a secret it is known to fail.
    let gemini = workspace(&server, "gemini", json!({})).await;
    let problem = refused(format!("{gemini}/prompts"), json!({ "prompt": "x" })).await;
    assert_eq!(problem["code"], "secret_missing", "{problem:#}");
    assert!(problem["detail"].as_str().unwrap().contains("GEMINI_API_KEY"), "{problem:#}");
    let body = json!({ "name": "GEMINI_API_KEY", "value": "key", "kind": "assistant_credential" });
    let (status, _) = server.call(Method::POST, "/secrets", Some(body)).await;
    assert!(status.is_success());
    let (status, problem) = server
        .call(Method::POST, &format!("{gemini}/prompts"), Some(json!({ "prompt": "x" })))
        .await;
    assert_eq!(status, StatusCode::ACCEPTED, "{problem:#}");

    // It may be logged in on its workspace's disk, which is only seen there.
    let codex = workspace(&server, "codex", json!({})).await;
    let prompt = send(&server, &codex, json!({ "prompt": "x" })).await;
    let (end, _) = server.ended(&prompt).await;
    assert_eq!(
        (state(&end), &end["fault"]["code"]),
        ("failed", &json!("secret_missing")),
        "{end:#}"
    );
    server.stop().await;
}

#[tokio::test]
async fn assistants_are_listed_and_a_definition_with_a_mistake_is_named_with_its_line() {
    let place = Place::new();
    with_assistant(&place);
    let server = Server::start(&place, DriverKind::Process).await;
    let listed = aetherium(&place, &["assistant", "list", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let names: Vec<_> = listed["items"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["amp", "claude-code", "codex", "gemini", "opencode", "scripted", "shell"]);
    let shown =
        String::from_utf8(aetherium(&place, &["assistant", "show", "scripted"]).stdout).unwrap();
    assert!(shown.contains("plan (default), all") && shown.contains("A script"), "{shown}");
    server.stop().await;

    let refuse = |directory: &Path| {
        let ran = place
            .aetherium()
            .args(["up", "--listen", "127.0.0.1:0", "--catalog"])
            .arg(directory)
            .output()
            .unwrap();
        assert!(!ran.status.success());
        String::from_utf8(ran.stderr).unwrap()
    };
    let missing = refuse(&place.path().join("nowhere"));
    assert!(missing.contains("--catalog") && missing.contains("nowhere"), "{missing}");
    let broken = place.path().join("broken");
    fs::create_dir_all(broken.join("assistants")).unwrap();
    let text = "name = \"x\"\ndescription = \"x\"\n[prompt]\nargs = [\"{prompt}\"]\n";
    fs::write(broken.join("assistants/x.toml"), text).unwrap();
    let said = refuse(&broken);
    assert!(["assistants/x.toml", "line 4", "args"].iter().all(|it| said.contains(it)), "{said}");
}
