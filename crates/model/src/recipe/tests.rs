use super::*;
use serde_json::json;

fn read(value: serde_json::Value) -> Result<Recipe, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

#[test]
fn a_recipe_says_no_more_than_it_must_and_reads_back_as_it_was_written() {
    let least = json!({ "base": { "template": "default" } });
    assert_eq!(serde_json::to_value(read(least.clone()).unwrap()).unwrap(), least);
    let full = json!({
        "base": { "image": "alpine:3" },
        "packages": ["git", "python3"],
        "files": [{ "source": "app", "dest": "/srv/app", "mode": "0755", "owner": "app:app" },
                  { "source": { "base64": "aGk=" }, "dest": "/etc/motd" }],
        "env": { "LANG": "C.UTF-8" },
        "run": [{ "command": "make install", "user": "app", "cwd": "/srv", "timeout_s": 60 },
                { "command": ["/bin/true"] }],
        "start": { "command": ["/srv/app", "serve"], "user": "app" },
        "ready": { "command": "curl -sf http://127.0.0.1/", "deadline_s": 20 },
        "init": "/sbin/init",
        "resources": { "memory_mib": 1024 },
        "user": "app",
        "workdir": "/srv",
        "build": { "memory_mib": 2048, "network": "egress" },
    });
    assert_eq!(serde_json::to_value(read(full.clone()).unwrap()).unwrap(), full);
}

#[test]
fn what_no_guest_could_take_is_refused_with_the_value() {
    let with = |field: &str, value: serde_json::Value| {
        let mut recipe = json!({ "base": { "template": "default" } });
        recipe[field] = value;
        read(recipe).unwrap_err()
    };
    let step = |field: &str, value: serde_json::Value| {
        let mut step = json!({ "command": "true" });
        step[field] = value;
        json!([step])
    };
    let file = |field: &str, value: serde_json::Value| {
        let mut file = json!({ "source": "a", "dest": "/a" });
        file[field] = value;
        json!([file])
    };
    let cases = [
        (with("base", json!({ "templates": "x" })), "unknown variant `templates`"),
        (with("base", json!({ "template": "Not A Name" })), "Not A Name"),
        (with("packages", json!(["--allow-untrusted"])), "--allow-untrusted"),
        (with("packages", json!(["git; rm -rf /"])), "rm -rf"),
        (with("packages", json!(vec!["git"; 257])), "257 entries"),
        (with("env", json!({ "A=B": "c" })), "A=B"),
        (with("run", step("command", json!([]))), "must name a program"),
        (with("run", step("command", json!("  "))), "the line is empty"),
        (with("run", step("command", json!(7))), "a line for a shell, or a list"),
        (with("run", step("cwd", json!("srv"))), "\"srv\""),
        (with("run", step("user", json!(""))), "a user's name or number"),
        (with("run", step("timeout_s", json!(0))), "1 to 86400 seconds"),
        (with("run", step("shell", json!("x"))), "unknown field `shell`"),
        (with("files", file("dest", json!("/srv/../etc"))), "/srv/../etc"),
        (with("files", file("mode", json!("0999"))), "0999"),
        (with("files", file("owner", json!("a:b:c"))), "a:b:c"),
        (with("files", file("source", json!({ "base64": "!" }))), "expected a path"),
        (with("ready", json!({ "command": "x", "deadline_s": 90_000 })), "90000"),
        (with("entrypoint", json!("x")), "unknown field `entrypoint`"),
    ];
    for (error, part) in cases {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

#[test]
fn a_line_runs_in_a_shell_as_root_unless_the_step_says_otherwise() {
    let recipe = read(json!({
        "base": { "template": "default" },
        "env": { "A": "1" },
        "run": [{ "command": "echo $A" }, { "command": ["id"], "user": "app", "timeout_s": 2 }],
    }))
    .unwrap();
    let first = recipe.run[0].command(&recipe.env);
    assert_eq!(first.argv, ["/bin/sh", "-c", "echo $A"]);
    assert_eq!((first.user.as_deref(), first.env["A"].as_str()), (Some("0"), "1"));
    let second = recipe.run[1].command(&recipe.env);
    assert_eq!((second.user.as_deref(), second.timeout_ms), (Some("app"), Some(2000)));
}

#[test]
fn what_lies_on_the_hosts_disk_is_told_apart() {
    let taken = |base: serde_json::Value, source: serde_json::Value| {
        let recipe = json!({ "base": base, "files": [{ "source": source, "dest": "/a" }] });
        let fields = read(recipe).unwrap().taken_from_host();
        fields.into_iter().map(|(field, _)| field).collect::<Vec<_>>()
    };
    let text = json!({ "text": "a" });
    assert!(taken(json!({ "image": "alpine:3" }), text.clone()).is_empty());
    assert!(taken(json!({ "template": "default" }), text.clone()).is_empty());
    assert_eq!(taken(json!({ "image": "dir:/etc" }), text), ["base.image"]);
    assert_eq!(taken(json!({ "template": "x" }), json!("/etc/shadow")), ["files[0].source"]);
}
