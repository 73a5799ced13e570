//! A workspace's whole life, in VMs: what it is made of, what is done in it, its rest, and its end.

use crate::{
    git_server::GitServer,
    world::{BOOT, Place, Server, assets, id, state},
};
use aetherium_image::TemplateStore;
use aetherium_model::{Name, resources::DriverKind};
use reqwest::Method;
use serde_json::{Value, json};
use std::{fs, time::Duration};

/// A build of two steps, and a boot.
const BUILD: Duration = Duration::from_secs(600);
/// What the repository's server wants to see.
const GIT_TOKEN: &str = "git-0123456789abcdef";
/// What the MCP server is given.
const NOTES_TOKEN: &str = "notes-0123456789abcdef";

/// A tool, and an MCP server that says how long the token is that it was given.
const TOOL: &str = r#"
name = "greeter"
description = "Greets, and keeps notes"
check = "greeter"

[install]
network = "isolated"
run = '''
printf '#!/bin/sh\necho hello\n' >/usr/local/bin/greeter
printf '#!/bin/sh\nread -r asked\nexpr length "$TOKEN"\n' >/usr/local/bin/notes
chmod 755 /usr/local/bin/greeter /usr/local/bin/notes
'''
"#;

/// An assistant that edits a file, asks its MCP server, and counts the turns of its conversation.
const ASSISTANT: &str = r#"
name = "editor"
description = "Edits a file"
user = "agent"

[install]
run = ['''cat >/usr/local/bin/editor <<'END'
#!/bin/sh
session=talk-$$ notes=none
while [ "$1" != -- ]; do
  case $1 in
    --session) session=$2 ;;
    --mcp) [ "$(stat -c '%U %a' "$2")" = 'root 440' ] || exit 9
      run=$(sed 's/.*"run":"\([^"]*\)".*/\1/' "$2")
      TOKEN=$(sed 's/.*"TOKEN":"\([^"]*\)".*/\1/' "$2")
      export TOKEN
      notes=$(echo '{"method":"tools/list"}' | "$run") ;;
  esac
  shift 2
done
echo "$2" >>"$HOME/$session.talk"
echo "$(greeter), $2" >>file
printf '{"begin":"%s"}\n{"say":"notes: %s"}\n' "$session" "$notes"
printf '{"done":true,"answer":"turn %s, lines %s"}\n' "$(wc -l <"$HOME/$session.talk")" "$(wc -l <file)"
END
chmod 755 /usr/local/bin/editor''']
check = "test -x /usr/local/bin/editor"

[prompt]
argv = ["editor", ["--session", "{session}"], ["--mcp", "{mcp_config}"], "--", "{prompt}"]

[session]
file = "{session}.talk"

[mcp]
format = "json"
deliver = "root_file"
stdio = { run = "{command}", args = "{args}", env = "{env}" }
http = { url = "{url}", headers = "{headers}" }

[[output.events]]
make.session = { session = "/begin" }

[[output.events]]
make.text = { text = "/say" }

[[output.events]]
when = { "/done" = true }
make.result = { text = "/answer" }
"#;

/// A place with the tool, the assistant, and a template that has git.
fn place() -> Place {
    let place = Place::new();
    for (directory, file, text) in
        [("tools", "greeter.toml", TOOL), ("assistants", "editor.toml", ASSISTANT)]
    {
        let directory = place.path().join("catalog").join(directory);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(file), text).unwrap();
    }
    let store = TemplateStore::open(assets().join("data/templates")).unwrap();
    let with_git = store.get(&"git".parse::<Name>().unwrap()).unwrap();
    place.template_like(&with_git, "git", |_| {});
    place
}

/// Sends a prompt, and returns what its assistant told: conversation, text and answer.
async fn turn(server: &Server<'_>, workspace: &str, body: Value) -> [String; 3] {
    let made = server.post(&format!("{workspace}/prompts"), body).await;
    let prompt = format!("{workspace}/prompts/{}", id(&made));
    let (end, output) = server.ended(&prompt).await;
    assert_eq!(end["result"]["exit_code"], 0, "{end:#}\n{output}\n{}", server.log());
    assert!(!output.contains(NOTES_TOKEN), "{output}");
    let events = server.get(&format!("{prompt}/events")).await;
    let lines = events.as_str().unwrap().lines().filter_map(|line| line.strip_prefix("data:"));
    let events: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    [("session", "session"), ("text", "text"), ("result", "text")].map(|(kind, field)| {
        let told = events.iter().find(|it| it["type"] == "assistant" && it["kind"] == kind);
        told.unwrap_or_else(|| panic!("no {kind} in {events:#?}"))[field]
            .as_str()
            .unwrap()
            .to_owned()
    })
}

#[tokio::test]
async fn a_workspace_is_made_of_an_environment_works_rests_goes_on_and_leaves_nothing_behind() {
    let place = place();
    let server = Server::start_with(&place, DriverKind::Qemu, &["--boot-deadline", "200s"]).await;
    let repository = GitServer::start(Some(GIT_TOKEN)).await;
    for (name, kind, value) in [("GIT", "git_token", GIT_TOKEN), ("NOTES", "opaque", NOTES_TOKEN)] {
        server.post("/secrets", json!({ "name": name, "kind": kind, "value": value })).await;
    }
    let environment = json!({
        "name": "editing", "ai_assistant": "editor", "template": "git", "memory_mib": 256,
        "network": "egress", "idle_timeout_s": 3, "idle_action": "hibernate",
        "setup": {
            // The host's loopback, as QEMU's guests see it.
            "repository": { "url": repository.url.replace("127.0.0.1", "172.16.0.1"), "credential": "GIT" },
            "tools": ["greeter"],
            "mcp_servers": { "notes": {
                "type": "stdio", "command": "/usr/local/bin/notes", "env": { "TOKEN": "${NOTES:-none}" },
            } },
            "preparation": [{ "name": "mark", "do": { "script": { "run": "echo prepared >> file" } } }],
        },
    });
    let environment = server.post("/environments", environment).await;
    let other = server.workspace("other").await;
    server.answer(&other, "echo mine > /root/file").await;

    let made = server.post("/workspaces", json!({ "name": "w", "environment": "editing" })).await;
    let workspace = format!("/workspaces/{}", id(&made));
    let ready =
        server.until(&workspace, BUILD, |it| !["creating", "preparing"].contains(&state(it))).await;
    let task = ready["preparation"]["task_id"].as_str().unwrap_or_default();
    let told = server.call(Method::GET, &format!("/tasks/{task}/events"), None).await.1;
    assert_eq!(state(&ready), "ready", "{ready:#}\n{told}\n{}", server.log());
    assert_eq!(
        (&ready["environment"]["name"], &ready["environment"]["version"]),
        (&json!("editing"), &json!(1))
    );

    // The first prompt edits a file of the repository, with the tool, the MCP server and its secret.
    let first = turn(&server, &workspace, json!({ "prompt": "one", "secrets": ["NOTES"] })).await;
    let length = NOTES_TOKEN.len();
    assert_eq!(first[1..], [format!("notes: {length}"), "turn 1, lines 3".to_owned()]);

    // A VM that has a secret in its memory hibernates, too.
    server.until(&workspace, BOOT, |it| it["lifecycle"] == "hibernated").await;
    let second = turn(&server, &workspace, json!({ "prompt": "two" })).await;
    assert_eq!(second, [first[0].as_str(), "notes: 4", "turn 2, lines 4"]);

    // What runs in it goes on.
    let count = "(while :; do date > /dev/shm/alive; sleep 0.1; done) >/dev/null 2>&1 & echo $!";
    let run = |script: &str| json!({ "argv": ["/bin/sh", "-c", script] });
    let started = server.post(&format!("{workspace}/execute"), run(count)).await;
    let process = started["stdout"].as_str().unwrap().trim().to_owned();
    server.until(&workspace, BOOT, |it| it["lifecycle"] == "hibernated").await;
    let third = turn(&server, &workspace, json!({ "prompt": "three" })).await;
    assert_eq!(third, [first[0].as_str(), "notes: 4", "turn 3, lines 5"]);
    let look = format!("kill -0 {process} && cat file && id -un && pwd && git status --short");
    let seen = server.post(&format!("{workspace}/execute"), run(&look)).await;
    assert_eq!(
        seen["stdout"],
        "two\nprepared\nhello, one\nhello, two\nhello, three\nagent\n/home/agent/workspace\n M file\n",
        "{seen:#}"
    );

    // Its end is its own alone.
    let task = server.delete(&workspace).await;
    let task = format!("/tasks/{}", id(&task));
    server.until(&task, BOOT, |task| state(task) == "succeeded").await;
    assert_eq!(server.call(Method::GET, &workspace, None).await.0, 404);
    assert!(!place.path().join(workspace.trim_start_matches('/')).exists());
    assert_eq!(server.answer(&other, "cat /root/file").await, "mine\n");
    let kept = server.get(&format!("/environments/{}", id(&environment))).await;
    assert_eq!(kept["version"], 1, "{kept:#}");
    assert_eq!(server.get("/secrets").await["items"].as_array().unwrap().len(), 2);
    server.stop().await;
    place.assert_no_vm_is_left();
}
