//! The assistants that come with the program: the commands that they make, and what is read from what their
//! programs print. The streams were recorded from the programs themselves, each against a scripted model, but
//! for amp's, which its `--help` describes as claude's.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use aetherium_catalog::{Ask, AssistantDefinition, Catalog, McpConfig};
use aetherium_model::{
    assistant::{AssistantEvent, AssistantOptions, PermissionMode},
    run::Command,
    secret::{SecretName, SecretUses},
    setup::McpServer,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::LazyLock};

static CATALOG: LazyLock<Catalog> = LazyLock::new(Catalog::built_in);

fn assistant(name: &str) -> &'static AssistantDefinition {
    CATALOG.assistant(&name.parse().unwrap()).unwrap()
}

/// Everything that can be asked for at once.
fn all() -> Ask<'static> {
    let options = AssistantOptions {
        model: Some("large".to_owned()),
        system_prompt: Some("Be brief".to_owned()),
        permission_mode: Some(PermissionMode::Plan),
    };
    Ask { options, session: Some("5e55-10"), mcp_config: Some("SERVERS"), ..Ask::of("-fix it") }
}

fn servers() -> BTreeMap<String, McpServer> {
    let servers = json!({
        "files": { "type": "stdio", "command": "npx", "args": ["-y", "a \"b\""], "env": { "K": "v" } },
        "web": { "type": "http", "url": "https://mcp.example.org/", "headers": { "X-Key": "k" } },
    });
    serde_json::from_value(servers).unwrap()
}

fn line(command: &Command) -> String {
    command.argv.join(" ")
}

#[test]
fn each_makes_the_shortest_command_of_a_prompt_that_asks_for_nothing_else() {
    for (name, wanted) in [
        ("shell", "/bin/sh -c -fix it"),
        (
            "claude-code",
            "claude --print --output-format stream-json --verbose --permission-mode bypassPermissions -- -fix it",
        ),
        (
            "codex",
            "codex exec --json --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox -- -fix it",
        ),
        (
            "gemini",
            "gemini --output-format stream-json --skip-trust --approval-mode yolo --prompt=-fix it",
        ),
        ("amp", "amp --dangerously-allow-all --stream-json --no-ide --execute=-fix it"),
        ("opencode", "opencode run --format json --auto -- -fix it"),
    ] {
        let command = assistant(name).command(&Ask::of("-fix it"));
        assert_eq!(line(&command), wanted);
        assert_eq!(command.argv.last().unwrap().split('=').next_back(), Some("-fix it"));
        assert_eq!(command.user.as_deref(), (name != "shell").then_some("agent"), "{name}");
        assert_eq!(command.validate(), Ok(()));
    }
}

#[test]
fn each_is_told_all_that_it_takes() {
    for (name, wanted) in [
        (
            "claude-code",
            "claude --print --output-format stream-json --verbose --permission-mode plan --model large \
             --append-system-prompt Be brief --resume 5e55-10 --mcp-config SERVERS -- -fix it",
        ),
        (
            "codex",
            "codex exec --json --skip-git-repo-check --sandbox read-only --model large --config \
             developer_instructions=Be brief --config mcp_servers=SERVERS resume 5e55-10 -- -fix it",
        ),
        (
            "gemini",
            "gemini --output-format stream-json --skip-trust --approval-mode plan --model large \
             --resume 5e55-10 --prompt=Be brief\n\n-fix it",
        ),
        (
            "opencode",
            "opencode run --format json --agent plan --model large --session 5e55-10 -- Be brief\n\n-fix it",
        ),
    ] {
        assert_eq!(line(&assistant(name).command(&all())), wanted);
        assert_eq!(assistant(name).accepts(&all().options), Ok(()));
    }
    let variable =
        |name: &str, variable: &str| assistant(name).command(&all()).env[variable].clone();
    assert_eq!(variable("gemini", "GEMINI_CLI_SYSTEM_SETTINGS_PATH"), "SERVERS");
    assert_eq!(variable("opencode", "OPENCODE_CONFIG_CONTENT"), "SERVERS");
    assert_eq!(assistant("opencode").command(&Ask::of("x")).env.len(), 0);
    let amp = all();
    let options = AssistantOptions { permission_mode: None, ..amp.options };
    assert_eq!(
        line(&assistant("amp").command(&Ask { options, ..amp })),
        "amp threads continue 5e55-10 --dangerously-allow-all --mode large --mcp-config SERVERS \
         --stream-json --no-ide --execute=Be brief\n\n-fix it"
    );
}

#[test]
fn a_secret_of_another_name_is_in_the_variable_that_the_program_looks_for() {
    let codex = assistant("codex");
    let variables: Vec<_> =
        codex.credentials.iter().map(|it| format!("{} in {}", it.secret, it.variable())).collect();
    assert_eq!(variables, ["CODEX_API_KEY in CODEX_API_KEY", "OPENAI_API_KEY in CODEX_API_KEY"]);
    let secret: SecretName = "OPENAI_API_KEY".parse().unwrap();
    let uses =
        |variable: &str| SecretUses::from_iter([(variable.parse().unwrap(), secret.clone())]);
    assert!(codex.has_credentials(&uses("CODEX_API_KEY")));
    assert!(
        !codex.has_credentials(&uses("OPENAI_API_KEY")),
        "a provider of OpenAI's has no use for it"
    );
    assert!(
        codex.is_known_by(&uses("OPENAI_API_KEY"), |_| false),
        "one of the user's own may have"
    );
}

#[test]
fn what_one_has_no_use_for_is_refused_by_name() {
    let refused = |name: &str, options: Value| {
        let options = serde_json::from_value(options).unwrap();
        assistant(name).accepts(&options).unwrap_err().field
    };
    assert_eq!(refused("shell", json!({ "model": "m" })), "model");
    assert_eq!(refused("shell", json!({ "system_prompt": "s" })), "system_prompt");
    assert_eq!(refused("shell", json!({ "permission_mode": "all" })), "permission_mode");
    assert_eq!(refused("amp", json!({ "permission_mode": "plan" })), "permission_mode");
    assert_eq!(refused("opencode", json!({ "permission_mode": "edits" })), "permission_mode");
}

#[test]
fn each_is_told_of_mcp_servers_in_its_own_form() {
    let config = |name: &str| assistant(name).mcp_config(&servers()).unwrap();
    let inline = |name: &str| match config(name) {
        McpConfig::Inline(text) => text,
        McpConfig::File(_) | McpConfig::RootFile(_) => panic!("{name} takes a file"),
    };
    let file = |name: &str| match config(name) {
        McpConfig::File(text) => text,
        other => panic!("{name} takes {other:?}"),
    };
    let read = |text: String| serde_json::from_str::<Value>(&text).unwrap();
    let (args, env, headers) = (["-y", "a \"b\""], json!({ "K": "v" }), json!({ "X-Key": "k" }));
    let url = "https://mcp.example.org/";
    let claude = json!({ "mcpServers": {
        "files": { "type": "stdio", "command": "npx", "args": args, "env": env },
        "web": { "type": "http", "url": url, "headers": headers },
    } });
    assert_eq!(read(file("claude-code")), claude);
    let amp = json!({
        "files": { "command": "npx", "args": args, "env": env },
        "web": { "url": url, "headers": headers },
    });
    assert_eq!(read(file("amp")), amp);
    let opencode = json!({ "mcp": {
        "files": { "type": "local", "command": ["npx", "-y", "a \"b\""], "environment": env },
        "web": { "type": "remote", "url": url, "headers": headers },
    } });
    assert_eq!(read(inline("opencode")), opencode);
    let expected = json!({ "mcpServers": {
        "files": { "command": "npx", "args": args, "env": env },
        "web": { "httpUrl": url, "headers": headers },
    } });
    let McpConfig::RootFile(gemini) = config("gemini") else { panic!("gemini takes root's file") };
    assert_eq!(read(gemini), expected);
    let codex: Value = toml::from_str(&format!("it = {}", inline("codex"))).unwrap();
    let expected = json!({
        "files": { "command": "npx", "args": args, "env": env },
        "web": { "url": url, "http_headers": headers },
    });
    assert_eq!(codex["it"], expected);
    assert_eq!(assistant("shell").mcp_config(&servers()), None);
    assert_eq!(assistant("codex").mcp_config(&BTreeMap::new()), None);
}

fn read(name: &str, stream: &str) -> Vec<AssistantEvent> {
    let mut parser = assistant(name).parser().unwrap();
    let mut events = parser.push(stream.as_bytes());
    events.extend(parser.finish());
    events
}

/// What each of the recorded streams tells: a tool that writes a file, and an answer.
fn told(name: &str, events: &[AssistantEvent]) -> (String, Vec<String>) {
    let Some(AssistantEvent::Session { session }) = events.first() else {
        panic!("{name}: {events:#?}")
    };
    let word = |event: &AssistantEvent| match event {
        AssistantEvent::Session { .. } => panic!("{name} told its session twice"),
        AssistantEvent::Text { text } => format!("text {text}"),
        AssistantEvent::ToolUse { name, input } => {
            let command = input["command"].as_str().unwrap_or_default();
            format!("use {name} {}", command.contains("made.txt"))
        }
        AssistantEvent::ToolResult { text, is_error } => {
            format!("gave {} {is_error}", text.trim_end())
        }
        AssistantEvent::Cost { usd, input_tokens, output_tokens, of_conversation } => {
            let usd = usd.map(|usd| format!("${usd:.5} ")).unwrap_or_default();
            let whose = if *of_conversation { "cost of all" } else { "cost" };
            format!("{whose} {usd}{} {}", input_tokens.unwrap(), output_tokens.unwrap())
        }
        AssistantEvent::Result { text, is_error } => format!("result {text} {is_error}"),
    };
    (session.clone(), events[1..].iter().map(word).collect())
}

#[test]
fn what_each_prints_is_read() {
    for (name, stream, session, wanted) in [
        (
            "claude-code",
            include_str!("streams/claude-code.jsonl"),
            "b428eee3-450b-4f75-9541-fc121ed45271",
            &[
                "text I will look.",
                "use Bash true",
                "gave from-the-tool false",
                "text All done.",
                "cost $0.00168 24 40",
                "result All done. false",
            ][..],
        ),
        (
            "codex",
            include_str!("streams/codex.jsonl"),
            "01a2195b-cc38-7710-80d7-842fa5b1568f",
            &[
                "use shell true",
                "gave from-the-tool false",
                "text All done.",
                "cost of all 24 40",
                "result All done. false",
            ],
        ),
        (
            "gemini",
            include_str!("streams/gemini.jsonl"),
            "733a022e-3377-49d4-9b65-1c76cd23892a",
            &[
                "text I will look.",
                "use run_shell_command true",
                "gave from-the-tool false",
                "text All done.",
                "cost 24 40",
                "result All done. false",
            ],
        ),
        (
            "opencode",
            include_str!("streams/opencode.jsonl"),
            "ses_de6a0ae70ffefP0LeEGyjTCK8H",
            &[
                "text I will look.",
                "use bash true",
                "gave from-the-tool false",
                "cost $0.00034 12 20",
                "text All done.",
                "cost $0.00034 12 20",
                "result All done. false",
            ],
        ),
        (
            "amp",
            include_str!("streams/claude-code.jsonl"),
            "b428eee3-450b-4f75-9541-fc121ed45271",
            &[
                "text I will look.",
                "use Bash true",
                "gave from-the-tool false",
                "text All done.",
                "cost 24 40",
                "result All done. false",
            ],
        ),
    ] {
        assert_eq!(
            told(name, &read(name, stream)),
            (session.to_owned(), wanted.iter().map(|it| (*it).to_owned()).collect()),
            "{name}"
        );
    }
}

#[test]
fn what_went_wrong_is_told_as_an_answer_that_failed() {
    let failed = |name: &str, line: &str| match read(name, line).pop() {
        Some(AssistantEvent::Result { text, is_error: true }) => text,
        other => panic!("{name}: {other:?}"),
    };
    let claude =
        r#"{"type":"result","subtype":"success","is_error":true,"result":"Not logged in"}"#;
    assert_eq!(failed("claude-code", claude), "Not logged in");
    let claude = r#"{"type":"result","subtype":"error_during_execution","is_error":true,"errors":["a","b"]}"#;
    assert_eq!(failed("claude-code", claude), "a\nb");
    assert_eq!(failed("codex", r#"{"type":"turn.failed","error":{"message":"no"}}"#), "no");
    let gemini =
        r#"{"type":"result","status":"error","error":{"type":"x","message":"no"},"stats":{}}"#;
    assert_eq!(failed("gemini", gemini), "no");
    let opencode = r#"{"type":"error","sessionID":"ses_1","error":{"name":"APIError","data":{"message":"no"}}}"#;
    assert_eq!(failed("opencode", opencode), "no");
}

#[test]
fn an_edit_that_codex_makes_is_a_tool_and_what_came_of_it() {
    let stream = concat!(
        r#"{"type":"item.started","item":{"id":"item_1","type":"file_change","changes":[{"path":"/w/new.txt","kind":"add"}],"status":"in_progress"}}"#,
        "\n",
        r#"{"type":"item.completed","item":{"id":"item_1","type":"file_change","changes":[{"path":"/w/new.txt","kind":"add"}],"status":"failed"}}"#,
        "\n",
    );
    let input = json!({ "changes": [{ "path": "/w/new.txt", "kind": "add" }] });
    let expected = [
        AssistantEvent::ToolUse { name: "edit".to_owned(), input },
        AssistantEvent::ToolResult { text: "failed".to_owned(), is_error: true },
    ];
    assert_eq!(read("codex", stream), expected);
}

#[test]
fn a_conversations_file_is_where_the_program_keeps_it() {
    let id = "733a022e-3377-49d4-9b65-1c76cd23892a";
    let file = |name: &str| assistant(name).session_file(id);
    assert_eq!(file("claude-code"), Some(format!(".claude/projects/*/{id}.jsonl")));
    assert_eq!(file("codex"), Some(format!(".codex/sessions/*/*/*/rollout-*-{id}.jsonl")));
    assert_eq!(file("gemini").unwrap(), ".gemini/tmp/*/chats/session-*-733a022e.jsonl");
    assert_eq!((file("amp"), file("shell")), (None, None), "theirs are nowhere on the disk");
}

#[test]
fn the_definition_that_the_documentation_shows_is_one() {
    let page = include_str!("../../../docs/assistants.md");
    let text = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let assistants = directory.path().join("assistants");
    std::fs::create_dir(&assistants).unwrap();
    std::fs::write(assistants.join("parrot.toml"), text).unwrap();
    let catalog =
        Catalog::with_directory(directory.path()).unwrap_or_else(|error| panic!("{error}"));
    let parrot = catalog.assistant(&"parrot".parse().unwrap()).unwrap();
    let ask = all();
    assert_eq!(
        line(&parrot.command(&ask)),
        "parrot --json --read-only --model large --resume 5e55-10 --servers SERVERS -- Be brief\n\n-fix it"
    );
    let mut parser = parrot.parser().unwrap();
    let said =
        parser.push(b"{\"say\": \"Hel\"}\n{\"say\":\"lo\"}\n{\"type\":\"end\",\"ok\":true}\n");
    let answer = AssistantEvent::Result { text: "Hello".to_owned(), is_error: false };
    assert_eq!(said, [AssistantEvent::Text { text: "Hello".to_owned() }, answer]);
}
