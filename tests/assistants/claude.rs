//! The real `claude`, whose model is a script beside it: what it asks of a model, does with a tool and prints
//! is its own.

use super::{aetherium, said, send, session, told, workspace};
use crate::world::{Place, Server, assets, id, state};
use aetherium_model::resources::DriverKind;
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Answers what claude asks: first with a tool that writes a file, then with a sentence.
const MODEL: &str = include_str!("model.sh");
/// The program that serves it, which is static.
const BUSYBOX: &str = "/bin/busybox";
/// A prompt on an emulated machine that others use, too.
const LONG: Duration = Duration::from_secs(400);

fn claude() -> PathBuf {
    let path = assets().join("claude/claude");
    assert!(path.exists(), "{} is missing: run `make assets` first", path.display());
    path
}

/// The model on this machine's loopback.
struct Model {
    server: Child,
    url: String,
}

impl Model {
    fn start(directory: &Path) -> Self {
        let script = directory.join("cgi-bin/model");
        fs::create_dir_all(script.parent().unwrap()).unwrap();
        fs::write(&script, MODEL).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Command::new(BUSYBOX)
            .args(["httpd", "-f", "-p", &format!("127.0.0.1:{port}"), "-h"])
            .arg(directory)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { server, url: format!("http://127.0.0.1:{port}/cgi-bin/model") }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

async fn set_key(server: &Server<'_>) {
    let (name, value) = ("ANTHROPIC_API_KEY", "sk-scripted-0123456789");
    let body = json!({ "name": name, "value": value, "kind": "assistant_credential" });
    let (status, said) = server.call(Method::POST, "/secrets", Some(body)).await;
    assert!(status.is_success(), "{said:#}");
}

/// Waits for a prompt's end, and returns what its assistant told.
async fn events(server: &Server<'_>, prompt: &str) -> Vec<Value> {
    let end = server.until(prompt, LONG, |it| !["queued", "running"].contains(&state(it))).await;
    let printed = server.get(&format!("{prompt}/output")).await;
    assert_eq!(end["result"]["exit_code"], 0, "{end:#}\n{printed}\n{}", server.log());
    told(server, prompt, "assistant").await
}

fn assert_a_tool_wrote_a_file(events: &[Value]) {
    assert_eq!(said(events), ["I write it.", "It is there."]);
    let one = |kind: &str| events.iter().find(|it| it["kind"] == kind).unwrap();
    assert_eq!(one("tool_use")["name"], "Bash");
    assert_eq!(one("tool_result")["text"], "written by a tool");
    assert_eq!(
        (&one("result")["text"], &one("result")["is_error"]),
        (&json!("It is there."), &json!(false))
    );
    assert!(one("cost")["output_tokens"].as_u64().unwrap() > 0, "{events:#?}");
}

#[tokio::test]
async fn claude_answers_a_prompt_and_goes_on_with_its_conversation() {
    let place = Place::new();
    let (home, model) = (place.path().join("home"), Model::start(&place.path().join("model")));
    fs::create_dir(&home).unwrap();
    let server = Server::start(&place, DriverKind::Process).await;
    set_key(&server).await;
    let path = format!("{}:/usr/bin:/bin", claude().parent().unwrap().display());
    let setup = json!({
        "env": { "ANTHROPIC_BASE_URL": model.url, "PATH": path },
        "working_directory": home,
    });
    let workspace = workspace(&server, "claude-code", setup).await;
    let prompt = send(&server, &workspace, json!({ "prompt": "-write it" })).await;
    let first = events(&server, &prompt).await;
    assert_a_tool_wrote_a_file(&first);
    assert_eq!(fs::read_to_string(home.join("made")).unwrap(), "written by a tool\n");

    let shown =
        aetherium(&place, &["ws", "follow", "claude-code", prompt.rsplit('/').next().unwrap()]);
    assert_eq!(String::from_utf8(shown.stdout).unwrap(), "I write it.\nIt is there.\n");
    let beside = String::from_utf8(shown.stderr).unwrap();
    assert!(beside.contains("· Bash: echo written by a tool | tee made"), "{beside}");

    // The tool's result is in the conversation, so that the model only answers.
    let body = json!({ "prompt": "and now?", "assistant": { "permission_mode": "plan" } });
    let next = events(&server, &send(&server, &workspace, body).await).await;
    assert_eq!(said(&next), ["It is there."]);
    assert_eq!(session(&next), session(&first));
    server.stop().await;
    place.assert_no_vm_is_left();
}

/// Writes a program of this machine into a VM.
fn put(place: &Place, vm: &str, from: &Path, to: &str) {
    let script = format!("cat > {to} && chmod 755 {to}");
    let ran = place
        .aetherium()
        .args(["exec", vm, "--", "sh", "-c", &script])
        .stdin(fs::File::open(from).unwrap())
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// The program's own definition, but for how it is installed: the test brings the program along.
fn definition_without_installation() -> String {
    let whole = include_str!("../../crates/catalog/assistants/claude-code.toml");
    let (before, rest) = whole.split_once("[install]").unwrap();
    let (_, after) = rest.split_once("[[credentials]]").unwrap();
    format!("{before}[[credentials]]{after}")
}

#[tokio::test]
async fn claude_answers_a_prompt_in_an_emulated_vm_as_the_user_agent() {
    let place = Place::new();
    let directory = place.path().join("catalog/assistants");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("claude-code.toml"), definition_without_installation()).unwrap();
    // Between its requests the test is busy for longer than a connection is kept.
    let server = Server::start(&place, DriverKind::Qemu).await.without_idle_connections();
    set_key(&server).await;
    let setup = json!({ "env": { "ANTHROPIC_BASE_URL": "http://127.0.0.1:8080/cgi-bin/model" } });
    let body = json!({
        "name": "claude", "ai_assistant": "claude-code", "setup": setup, "vcpus": 2,
        "memory_mib": 1536, "disk_mib": 2048, "idle_action": "stop",
    });
    let workspace = format!("/workspaces/{}", id(&server.post("/workspaces", body).await));
    server.until(&workspace, LONG, |it| state(it) == "ready").await;
    let awake = server.post(&format!("{workspace}/wake"), json!({})).await;
    let vm = awake["vm_id"].as_str().unwrap().to_owned();
    let script = place.path().join("model");
    fs::write(&script, MODEL).unwrap();
    put(&place, &vm, &claude(), "/usr/local/bin/claude");
    put(&place, &vm, Path::new(BUSYBOX), "/usr/local/bin/busybox");
    let serve = "mkdir -p /srv/cgi-bin && cat > /srv/cgi-bin/model && chmod 755 /srv/cgi-bin/model && \
                 busybox httpd -p 127.0.0.1:8080 -h /srv";
    let ran = place
        .aetherium()
        .args(["exec", &vm, "--", "sh", "-c", serve])
        .stdin(fs::File::open(&script).unwrap())
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));

    let began = Instant::now();
    let prompt = send(&server, &workspace, json!({ "prompt": "write it" })).await;
    assert_a_tool_wrote_a_file(&events(&server, &prompt).await);
    println!("claude answered after {:.1} s in an emulated VM", began.elapsed().as_secs_f32());
    let whose = aetherium(&place, &["exec", &vm, "--", "stat", "-c", "%U", "/home/agent/made"]);
    assert_eq!(String::from_utf8(whose.stdout).unwrap(), "agent\n");
    server.stop().await;
    place.assert_no_vm_is_left();
}
