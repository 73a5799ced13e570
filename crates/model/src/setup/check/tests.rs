//! Each value that is not allowed is named by where it is.

use super::*;
use serde_json::{Value, json};

fn setup(value: Value) -> Setup {
    serde_json::from_value(value).unwrap()
}

fn fields(objections: &[Objection]) -> Vec<&str> {
    objections.iter().map(|it| it.field.as_str()).collect()
}

#[test]
fn a_whole_setup_is_allowed() {
    let setup = setup(json!({
        "repository": {
            "url": "git@git.example.org:a/b.git", "branch": "feature/one", "depth": 1,
            "credential": "DEPLOY_KEY", "known_hosts": "# ours\ngit.example.org ssh-ed25519 AAAA\n",
        },
        "tools": ["nodejs@20", "git"],
        "env": {"LANG": "C.UTF-8"},
        "mcp_servers": {
            "files": {"type": "stdio", "command": "mcp-files", "args": ["${LANG}"], "env": {"A": "b"}},
            "web": {"type": "http", "url": "https://mcp.example.org/", "headers": {"Authorization": "Bearer ${TOKEN}"}},
        },
        "preparation": [
            {"name": "install", "do": {"script": {"run": "make install"}}, "timeout_s": 60},
            {"do": {"files": [{"path": "/etc/motd", "content": {"text": "hello"}}]}},
            {"do": {"env": {"STAGE": "test"}}},
            {"do": {"git_clone": {"url": "https://git.example.org/lib.git", "path": "/srv/lib"}}},
        ],
        "assistant": {"model": "sonnet", "system_prompt": "be brief", "permission_mode": "all"},
    }));
    assert_eq!(setup.objections(), []);
    let secrets = serde_json::from_value(json!(["TOKEN"])).unwrap();
    assert_eq!(setup.unknown_variables(&secrets), []);
}

#[test]
fn each_value_that_is_not_allowed_is_named() {
    let long = "x".repeat(600 * 1024);
    let many: serde_json::Map<_, _> = (0..300).map(|n| (format!("V{n}"), json!("x"))).collect();
    for (value, field, says) in [
        (json!({"repository": {"url": "file:///x"}}), "repository.url", "\"file\""),
        (
            json!({"repository": {"url": "git@host:x"}}),
            "repository.known_hosts",
            "ssh-keyscan host",
        ),
        (
            json!({"repository": {"url": "git@host:x", "known_hosts": "x"}}),
            "repository.known_hosts",
            "\"x\"",
        ),
        (
            json!({"repository": {"url": "git@host:x", "known_hosts": "# x"}}),
            "repository.known_hosts",
            "no keys",
        ),
        (
            json!({"repository": {"url": "https://h/x", "known_hosts": "h k v"}}),
            "repository.known_hosts",
            "leave it out",
        ),
        (
            json!({"repository": {"url": "https://h/x", "branch": "--upload-pack=x"}}),
            "repository.branch",
            "--upload-pack",
        ),
        (
            json!({"repository": {"url": "https://h/x", "branch": "a..b"}}),
            "repository.branch",
            "a..b",
        ),
        (
            json!({"repository": {"url": "https://h/x", "branch": ""}}),
            "repository.branch",
            "cannot be",
        ),
        (json!({"repository": {"url": "https://h/x", "depth": 0}}), "repository.depth", "0 is not"),
        (json!({"tools": ["git", "nodejs", "git@2"]}), "tools[2]", "twice"),
        (json!({"env": {"A": "x\0"}}), "env.A", "NUL"),
        (json!({"env": {"A": long}}), "env", "bytes"),
        (json!({"env": many}), "env", "300 variables"),
        (
            json!({"mcp_servers": {"a b": {"type": "stdio", "command": "x"}}}),
            "mcp_servers",
            "\"a b\"",
        ),
        (
            json!({"mcp_servers": {"a": {"type": "stdio", "command": " "}}}),
            "mcp_servers.a.command",
            "empty",
        ),
        (
            json!({"mcp_servers": {"a": {"type": "stdio", "command": "x", "args": ["", "${x"]}}}),
            "mcp_servers.a.args[1]",
            "\"${x\"",
        ),
        (
            json!({"mcp_servers": {"a": {"type": "stdio", "command": "x", "args": [long]}}}),
            "mcp_servers.a.args",
            "too large",
        ),
        (
            json!({"mcp_servers": {"a": {"type": "http", "url": "https:///x"}}}),
            "mcp_servers.a.url",
            "https:///x",
        ),
        (
            json!({"mcp_servers": {"a": {"type": "http", "url": "http://x", "headers": {"A:": ""}}}}),
            "mcp_servers.a.headers",
            "\"A:\"",
        ),
        (
            json!({"mcp_servers": {"a": {"type": "http", "url": "http://x", "headers": {"A": "b\r\nC: d"}}}}),
            "mcp_servers.a.headers.A",
            "line",
        ),
        (
            json!({"preparation": [{"name": "", "do": {"env": {}}}]}),
            "preparation[0].name",
            "one line",
        ),
        (
            json!({"preparation": [{"do": {"script": {"run": " \n"}}}]}),
            "preparation[0].do.script.run",
            "empty",
        ),
        (
            json!({"preparation": [{"do": {"git_clone": {"url": "x"}}}]}),
            "preparation[0].do.git_clone.url",
            "\"x\"",
        ),
        (json!({"preparation": [{"do": {"env": {"A": "\0"}}}]}), "preparation[0].do.env.A", "NUL"),
        (
            json!({"preparation": [{"do": {"files": [{"path": "/x", "content": {"text": long}}]}}]}),
            "preparation[0].do.files[0].content",
            "bytes",
        ),
        (json!({"assistant": {"model": "-x"}}), "assistant.model", "option"),
        (json!({"assistant": {"system_prompt": "a\0"}}), "assistant.system_prompt", "NUL"),
    ] {
        let found = setup(value.clone()).objections();
        assert_eq!(fields(&found), [field], "{value:.200}");
        assert!(found[0].problem.contains(says), "{}", found[0].problem);
    }
}

#[test]
fn a_variable_that_nothing_gives_is_named() {
    let setup = setup(json!({
        "env": {"A": "1"},
        "preparation": [{"do": {"env": {"B": "2"}}}],
        "mcp_servers": {"web": {"type": "http", "url": "https://${A}/${B}/${D:-x}", "headers": {
            "X": "$${E} ${C}",
        }}},
    }));
    let found = setup.unknown_variables(&SecretUses::default());
    assert_eq!(fields(&found), ["mcp_servers.web.headers.X"]);
    assert!(found[0].problem.contains("${C}"), "{}", found[0].problem);
    let secrets = serde_json::from_value(json!({"C": {"secret": "TOKEN"}})).unwrap();
    assert_eq!(setup.unknown_variables(&secrets), []);
}
