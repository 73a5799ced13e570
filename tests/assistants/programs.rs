//! The real programs of assistants, whose model is a script beside them: what they ask of a model, do with a
//! tool and print is their own.

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

/// Answers what a program asks: first with a tool that writes a file, then with a sentence.
const MODEL: &str = include_str!("model.sh");
/// Where a server has it, after its address.
const MODEL_PATH: &str = "/cgi-bin/model";
/// The program that serves it, which is static.
const BUSYBOX: &str = "/bin/busybox";
/// The only key that the model answers to.
const KEY: &str = "sk-scripted-0123456789";
/// A prompt on an emulated machine that others use, too.
const LONG: Duration = Duration::from_secs(400);

/// An assistant's program.
struct Program {
    assistant: &'static str,
    /// The definition that comes with Aetherium.
    definition: &'static str,
    /// The program's directory and its name there, below those that are installed for tests.
    at: (&'static str, &'static str),
    /// A secret that it is known to the model by.
    secret: &'static str,
    /// What its shell is called.
    tool: &'static str,
    /// Whether it tells what its conversation has used, and not what its prompt has.
    counts_conversation: bool,
    /// The setup of a workspace, below a home, that has it ask a model at some address.
    setup: fn(&str, &str) -> Value,
}

const CLAUDE: Program = Program {
    assistant: "claude-code",
    definition: include_str!("../../crates/catalog/assistants/claude-code.toml"),
    at: ("@anthropic-ai/claude-code-linux-x64", "claude"),
    secret: "ANTHROPIC_API_KEY",
    tool: "Bash",
    counts_conversation: false,
    setup: |_, model| json!({ "env": { "ANTHROPIC_BASE_URL": model } }),
};

const CODEX: Program = Program {
    assistant: "codex",
    definition: include_str!("../../crates/catalog/assistants/codex.toml"),
    at: ("@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin", "codex"),
    // Not the variable that it looks for.
    secret: "OPENAI_API_KEY",
    tool: "shell",
    counts_conversation: true,
    setup: |home, model| {
        let config = format!(
            "model_provider = \"scripted\"\n\
             [model_providers.scripted]\nname = \"A script\"\nbase_url = \"{model}\"\n\
             wire_api = \"responses\"\nrequires_openai_auth = true\n"
        );
        json!({ "env": {}, "preparation": [file(format!("{home}/.codex/config.toml"), config)] })
    },
};

const GEMINI: Program = Program {
    assistant: "gemini",
    definition: include_str!("../../crates/catalog/assistants/gemini.toml"),
    at: (".bin", "gemini"),
    secret: "GEMINI_API_KEY",
    tool: "run_shell_command",
    counts_conversation: false,
    setup: |home, model| {
        let settings = json!({ "security": { "auth": { "selectedType": "gemini-api-key" } } });
        let settings = file(format!("{home}/.gemini/settings.json"), settings.to_string());
        json!({ "env": { "GOOGLE_GEMINI_BASE_URL": model }, "preparation": [settings] })
    },
};

/// A step that writes a file.
fn file(path: String, text: String) -> Value {
    json!({ "do": { "files": [{ "path": path, "content": { "text": text } }] } })
}

impl Program {
    /// The directory that it is in.
    fn directory(&self) -> PathBuf {
        let directory = assets().join("assistants/node_modules").join(self.at.0);
        let path = directory.join(self.at.1);
        assert!(path.exists(), "{} is missing: run `make assets` first", path.display());
        directory
    }

    async fn set_key(&self, server: &Server<'_>) {
        let body = json!({ "name": self.secret, "value": KEY, "kind": "assistant_credential" });
        let (status, said) = server.call(Method::POST, "/secrets", Some(body)).await;
        assert!(status.is_success(), "{said:#}");
    }

    /// What a prompt has told of whose tool was asked to write a file.
    fn assert_a_tool_wrote_a_file(&self, events: &[Value]) {
        assert_eq!(said(events), ["I write it.", "It is there."]);
        let one = |kind: &str| events.iter().find(|it| it["kind"] == kind).unwrap();
        let asked = one("tool_use");
        assert_eq!(asked["name"], self.tool);
        let command = asked["input"]["command"].as_str().unwrap();
        assert!(command.contains("echo written by a tool | tee made"), "{command}");
        let gave = one("tool_result");
        assert_eq!(gave["text"].as_str().unwrap().trim_end(), "written by a tool");
        assert_eq!(gave["is_error"], false);
        let answer = one("result");
        assert_eq!((&answer["text"], &answer["is_error"]), (&json!("It is there."), &json!(false)));
        self.assert_cost(events, [24, 40]);
    }

    fn assert_cost(&self, events: &[Value], tokens: [u64; 2]) {
        let costs: Vec<_> = events.iter().filter(|it| it["kind"] == "cost").collect();
        let told = ["input_tokens", "output_tokens"].map(|it| costs[0][it].as_u64().unwrap());
        assert_eq!((costs.len(), told), (1, tokens), "{costs:#?}");
        assert_eq!(costs[0]["of_conversation"], self.counts_conversation);
    }

    /// Without a VM: a prompt whose tool writes a file, and one that goes on with its conversation.
    async fn answers_and_goes_on(&self) {
        let place = Place::new();
        let (home, model) = (place.path().join("home"), Model::start(&place.path().join("model")));
        fs::create_dir(&home).unwrap();
        let mut setup = (self.setup)(home.to_str().unwrap(), &model.url);
        setup["env"]["PATH"] = json!(format!("{}:/usr/bin:/bin", self.directory().display()));
        setup["working_directory"] = json!(home);
        setup["assistant"] = json!({ "model": "scripted" });
        let server = Server::start(&place, DriverKind::Process).await;
        self.set_key(&server).await;
        let workspace = workspace(&server, self.assistant, setup).await;
        let prompt = send(&server, &workspace, json!({ "prompt": "-write it" })).await;
        let first = events(&server, &prompt).await;
        self.assert_a_tool_wrote_a_file(&first);
        assert_eq!(fs::read_to_string(home.join("made")).unwrap(), "written by a tool\n");

        let prompt = prompt.rsplit('/').next().unwrap();
        let shown = aetherium(&place, &["ws", "follow", self.assistant, prompt]);
        assert_eq!(String::from_utf8(shown.stdout).unwrap(), "I write it.\nIt is there.\n");
        let beside = String::from_utf8(shown.stderr).unwrap();
        assert!(beside.contains(&format!("· {}: ", self.tool)), "{beside}");
        assert!(beside.contains("echo written by a tool | tee made"), "{beside}");

        // The tool's result is in the conversation, so that the model only answers.
        let body = json!({ "prompt": "and now?", "assistant": { "permission_mode": "plan" } });
        let next = events(&server, &send(&server, &workspace, body).await).await;
        assert_eq!(said(&next), ["It is there."]);
        assert_eq!(session(&next), session(&first));
        self.assert_cost(&next, if self.counts_conversation { [36, 60] } else { [12, 20] });
        server.stop().await;
        place.assert_no_vm_is_left();
    }

    /// Its definition, but for how it is installed: the test brings the program along.
    fn definition_without_installation(&self) -> String {
        let (before, rest) = self.definition.split_once("[install]").unwrap();
        let (_, after) = rest.split_once("[[credentials]]").unwrap();
        format!("{before}[[credentials]]{after}")
    }

    /// In an emulated VM: a prompt whose tool writes a file, as the user `agent`.
    async fn answers_in_a_vm(&self) {
        let place = Place::new();
        let directory = place.path().join("catalog/assistants");
        fs::create_dir_all(&directory).unwrap();
        let definition = directory.join(format!("{}.toml", self.assistant));
        fs::write(definition, self.definition_without_installation()).unwrap();
        // Between its requests the test is busy for longer than a connection is kept.
        let server = Server::start(&place, DriverKind::Qemu).await.without_idle_connections();
        self.set_key(&server).await;
        let setup = (self.setup)("/home/agent", &format!("http://127.0.0.1:8080{MODEL_PATH}"));
        let body = json!({
            "name": "own", "ai_assistant": self.assistant, "setup": setup, "vcpus": 2,
            "memory_mib": 1536, "disk_mib": 2048, "idle_action": "stop",
        });
        let workspace = format!("/workspaces/{}", id(&server.post("/workspaces", body).await));
        server.until(&workspace, LONG, |it| state(it) == "ready").await;
        let awake = server.post(&format!("{workspace}/wake"), json!({})).await;
        let vm = awake["vm_id"].as_str().unwrap().to_owned();
        let put = |from: &Path, to: &str| {
            let script = "mkdir -p ${0%/*} && cat > $0 && chmod 755 $0";
            let from = Stdio::from(fs::File::open(from).unwrap());
            inside(&place, &vm, from, &["sh", "-c", script, to]);
        };
        let program = format!("/usr/local/bin/{}", self.at.1);
        put(&self.directory().join(self.at.1), &program);
        put(Path::new(BUSYBOX), "/usr/local/bin/busybox");
        let model = place.path().join("model");
        fs::write(&model, MODEL).unwrap();
        put(&model, &format!("/srv{MODEL_PATH}"));
        let serve = ["busybox", "httpd", "-p", "127.0.0.1:8080", "-h", "/srv"];
        inside(&place, &vm, Stdio::null(), &serve);

        let began = Instant::now();
        let prompt = send(&server, &workspace, json!({ "prompt": "write it" })).await;
        self.assert_a_tool_wrote_a_file(&events(&server, &prompt).await);
        let took = began.elapsed().as_secs_f32();
        println!("{} answered after {took:.1} s in an emulated VM", self.assistant);
        let whose = inside(&place, &vm, Stdio::null(), &["stat", "-c", "%U", "/home/agent/made"]);
        assert_eq!(whose, "agent\n");
        server.stop().await;
        place.assert_no_vm_is_left();
    }
}

/// The model on this machine's loopback.
struct Model {
    server: Child,
    url: String,
}

impl Model {
    fn start(directory: &Path) -> Self {
        let script = directory.join(MODEL_PATH.trim_start_matches('/'));
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
        Self { server, url: format!("http://127.0.0.1:{port}{MODEL_PATH}") }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Waits for a prompt's end, and returns what its assistant told.
async fn events(server: &Server<'_>, prompt: &str) -> Vec<Value> {
    let end = server.until(prompt, LONG, |it| !["queued", "running"].contains(&state(it))).await;
    let printed = server.get(&format!("{prompt}/output")).await;
    assert_eq!(end["result"]["exit_code"], 0, "{end:#}\n{printed}\n{}", server.log());
    told(server, prompt, "assistant").await
}

/// Runs a command in a VM, and returns what it prints.
fn inside(place: &Place, vm: &str, stdin: Stdio, command: &[&str]) -> String {
    let mut exec = place.aetherium();
    let ran = exec.args(["exec", vm, "--"]).args(command).stdin(stdin).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

#[tokio::test]
async fn claude_answers_a_prompt_and_goes_on_with_its_conversation() {
    CLAUDE.answers_and_goes_on().await;
}

#[tokio::test]
async fn codex_answers_a_prompt_and_goes_on_with_its_conversation() {
    CODEX.answers_and_goes_on().await;
}

#[tokio::test]
async fn gemini_answers_a_prompt_and_goes_on_with_its_conversation() {
    GEMINI.answers_and_goes_on().await;
}

#[tokio::test]
async fn claude_answers_a_prompt_in_an_emulated_vm_as_the_user_agent() {
    CLAUDE.answers_in_a_vm().await;
}

#[tokio::test]
async fn codex_answers_a_prompt_in_an_emulated_vm_as_the_user_agent() {
    CODEX.answers_in_a_vm().await;
}
