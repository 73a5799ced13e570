//! Workspaces with tools: their VMs start from a template that has them, made once. The tools here are a
//! catalogue's of the tests' own, and need no network.

mod firecracker;

use crate::world::{BOOT, Place, Server, http, id, state};
use aetherium_model::resources::DriverKind;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{fs, time::Duration};

/// A build of some steps, and the boot of a workspace's first VM.
const BUILD: Duration = Duration::from_secs(600);

/// A catalogue with `mytool`, of which there are three versions: the third cannot be installed. `slow`
/// takes a while, and says so first.
fn catalogue(place: &Place) -> String {
    let tools = place.path().join("catalog/tools");
    fs::create_dir_all(&tools).unwrap();
    fs::write(
        tools.join("mytool.toml"),
        r#"
name = "mytool"
aliases = ["mine"]
description = "Says its version"
check = 'mytool --version && test "$MYTOOL_HOME" = /opt/mytool'

[versions]
default = "1"
listed = ["1", "2", "3"]

[install]
network = "isolated"
path = ["/opt/mytool/bin"]
env = { MYTOOL_HOME = "/opt/mytool" }
run = '''
echo "installing $TOOL_NAME $TOOL_VERSION"
if [ "$TOOL_VERSION" = 3 ]; then echo "no $TOOL_VERSION for this machine" >&2; exit 7; fi
mkdir -p /opt/mytool/bin
printf '#!/bin/sh\necho mytool %s for %s\n' "$TOOL_VERSION" '$(id -un)' >/opt/mytool/bin/mytool
chmod 755 /opt/mytool/bin/mytool
'''
"#,
    )
    .unwrap();
    fs::write(
        tools.join("slow.toml"),
        r#"
name = "slow"
description = "Takes its time"
check = "slow"

[install]
requires = ["mytool@2"]
network = "isolated"
run = '''
echo here
sleep 3
ln -s /bin/true /usr/local/bin/slow
'''
"#,
    )
    .unwrap();
    tools.parent().unwrap().to_str().unwrap().to_owned()
}

async fn start<'a>(place: &'a Place, driver: DriverKind) -> Server<'a> {
    let catalog = catalogue(place);
    let more = ["--catalog", &catalog, "--boot-deadline", "200s"];
    Server::start_with(place, driver, &more).await
}

/// Asks for a workspace with some tools.
async fn make(server: &Server<'_>, name: &str, setup: Value) -> Value {
    server.post("/workspaces", json!({ "name": name, "setup": setup })).await
}

/// Waits until it is ready, or is not going to be.
async fn settled(server: &Server<'_>, made: &Value) -> Value {
    let path = format!("/workspaces/{}", id(made));
    server.until(&path, BUILD, |it| !["creating", "preparing"].contains(&state(it))).await
}

async fn ready(server: &Server<'_>, made: &Value) -> Value {
    let workspace = settled(server, made).await;
    assert_eq!(state(&workspace), "ready", "{workspace:#}\n{}", server.log());
    workspace
}

/// What the log of the task that made a workspace tells.
async fn told(server: &Server<'_>, made: &Value) -> Vec<Value> {
    let task = made["links"]["task"].as_str().unwrap().strip_prefix("/api/v1").unwrap();
    let (status, stream) = server.call(Method::GET, &format!("{task}/events"), None).await;
    assert_eq!(status, StatusCode::OK, "{stream}");
    let stream = stream.as_str().unwrap().to_owned();
    let data = stream.lines().filter_map(|line| line.strip_prefix("data:"));
    data.map(|event| serde_json::from_str(event).unwrap()).collect()
}

/// Follows the same log until it has some text.
async fn follow(server: &Server<'_>, made: &Value, text: &str) {
    let url = format!("{}{}/events", server.url(), made["links"]["task"].as_str().unwrap());
    let mut answer = http().get(url).bearer_auth(server.key()).send().await.unwrap();
    let mut said = String::new();
    let read = async {
        while let Some(chunk) = answer.chunk().await.unwrap() {
            said.push_str(&String::from_utf8_lossy(&chunk));
            if said.contains(text) {
                return;
            }
        }
    };
    let in_time = tokio::time::timeout(BUILD, read).await.is_ok();
    assert!(in_time && said.contains(text), "{said}\n{}", server.log());
}

fn count(events: &[Value], kind: &str) -> usize {
    events.iter().filter(|event| event["event"] == kind).count()
}

/// The templates that were made for tools.
fn derived(place: &Place) -> Vec<String> {
    let names = place.templates().list().unwrap().into_iter().map(|it| it.name);
    names.filter(aetherium_image::is_derived).map(|it| it.to_string()).collect()
}

#[tokio::test]
async fn a_workspaces_user_has_its_tool_and_the_next_workspace_starts_at_once() {
    let place = Place::new();
    let server = start(&place, DriverKind::Qemu).await;
    // Two that ask at once build once.
    let setup = json!({ "tools": ["mytool@2"], "user": "dev" });
    let first = make(&server, "first", setup.clone()).await;
    let second = make(&server, "second", json!({ "tools": ["mine@2"] })).await;
    let (one, two) = (ready(&server, &first).await, ready(&server, &second).await);
    let template = &one["preparation"]["template"];
    assert!(template.as_str().unwrap().starts_with("sha256:"), "{one:#}");
    assert_eq!(template, &two["preparation"]["template"]);
    let step = &one["preparation"]["steps"][0];
    assert_eq!((&step["action"], &step["state"]), (&json!("tools"), &json!("done")), "{one:#}");
    let (a, b) = (told(&server, &first).await, told(&server, &second).await);
    assert_eq!(count(&a, "step_started") + count(&b, "step_started"), 2, "{a:#?}\n{b:#?}");
    let label = |it: &Value| it["label"] == "tool mytool@2";
    assert!(a.iter().chain(&b).any(label), "{a:#?}\n{b:#?}");
    let printed =
        |it: &Value| it["text"].as_str().is_some_and(|it| it.contains("installing mytool 2"));
    assert!(a.iter().chain(&b).any(printed), "{a:#?}\n{b:#?}");

    let path = format!("/workspaces/{}", id(&first));
    let line = "id -un; mytool --version; echo $MYTOOL_HOME; sh -lc mytool";
    let said = server.answer(&path, line).await;
    assert_eq!(said, "dev\nmytool 2 for dev\n/opt/mytool\nmytool 2 for dev\n", "{}", server.log());
    let vm = server.get(&path).await["vm_id"].as_str().unwrap().to_owned();
    assert_eq!(&server.get(&format!("/vms/{vm}")).await["template_digest"], template);

    // Later, too: nothing is built again, also after the server has ended.
    server.stop().await;
    let server = start(&place, DriverKind::Qemu).await;
    let third = make(&server, "third", json!({ "tools": ["mytool@2"] })).await;
    ready(&server, &third).await;
    let log = told(&server, &third).await;
    assert_eq!((count(&log, "planned"), count(&log, "step_started")), (0, 0), "{log:#?}");
    assert_eq!(derived(&place).len(), 1);

    // It is nobody's own: hidden in the list, and kept for who uses it.
    let list = |more: &[&str]| {
        let output = place.aetherium().args(["template", "list"]).args(more).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(!list(&[]).contains("tools-") && list(&["--all"]).contains("tools-"));
    let collect = || {
        let arguments = ["template", "gc", "--keep-tools", "0s"];
        let output = place.aetherium().args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    collect();
    assert_eq!(derived(&place).len(), 1);
    for workspace in ["first", "second", "third"] {
        server.delete(&format!("/workspaces/{workspace}")).await;
        let path = format!("/workspaces/{workspace}");
        let deadline = std::time::Instant::now() + BOOT;
        while server.call(Method::GET, &path, None).await.0 != StatusCode::NOT_FOUND {
            assert!(std::time::Instant::now() < deadline, "{workspace} stays\n{}", server.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    collect();
    assert_eq!(derived(&place), Vec::<String>::new());
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_tool_that_cannot_be_installed_is_named_with_what_it_said_and_nothing_is_left() {
    let place = Place::new();
    let server = start(&place, DriverKind::Qemu).await;
    let body = json!({ "name": "typo", "setup": { "tools": ["mytol"] } });
    let (status, refused) = server.call(Method::POST, "/workspaces", Some(body)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{refused:#}");
    let problem = refused["errors"][0]["problem"].as_str().unwrap();
    assert_eq!(problem, "there is no tool \"mytol\": did you mean mytool?");

    let made = make(&server, "demo", json!({ "tools": ["mytool@3"] })).await;
    let failed = settled(&server, &made).await;
    assert_eq!(state(&failed), "failed", "{failed:#}");
    let fault = &failed["fault"];
    let detail = fault["detail"].as_str().unwrap();
    assert!(
        detail.contains("workspace demo cannot have its tools")
            && detail.contains("mytool@3")
            && detail.contains("exit code 7"),
        "{failed:#}"
    );
    assert_eq!(fault["code"], "step_failed");
    let evidence = json!(["installing mytool 3", "no 3 for this machine"]);
    assert_eq!(fault["evidence"], evidence, "{failed:#}");
    assert_eq!(failed["preparation"]["steps"][0]["state"], "failed", "{failed:#}");
    assert_eq!(derived(&place), Vec::<String>::new());
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_server_that_is_killed_while_tools_are_installed_has_them_ready_after_its_next_start() {
    let place = Place::new();
    let server = start(&place, DriverKind::Qemu).await;
    let made = make(&server, "demo", json!({ "tools": ["slow"] })).await;
    let path = format!("/workspaces/{}", id(&made));
    follow(&server, &made, "\"here\\n").await;
    server.kill();
    assert_eq!(derived(&place), Vec::<String>::new());
    let server = start(&place, DriverKind::Qemu).await;
    ready(&server, &made).await;
    let log = told(&server, &made).await;
    let label = |event: &str, label: &str| {
        log.iter().filter(|it| it["event"] == event && it["label"] == label).count()
    };
    assert_eq!(label("step_started", "tool mytool@2"), 1, "what was done is kept: {log:#?}");
    assert_eq!(label("step_started", "tool slow"), 2, "{log:#?}");
    assert_eq!(server.answer(&path, "slow && mytool").await, "mytool 2 for root\n");
    assert_eq!(derived(&place).len(), 1);
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn without_vms_a_tool_must_be_on_the_host() {
    let place = Place::new();
    let server = start(&place, DriverKind::Process).await;
    let made = make(&server, "without", json!({ "tools": ["mytool"] })).await;
    let failed = settled(&server, &made).await;
    let detail = failed["fault"]["detail"].as_str().unwrap_or_default();
    assert!(detail.starts_with("tool mytool is not on this host"), "{failed:#}");
    let tools = place.path().join("catalog/tools/here.toml");
    let here = "name = \"here\"\ndescription = \"\"\ncheck = \"sh -c true\"\n\
                [packages]\napt = [\"here\"]\n";
    fs::write(tools, here).unwrap();
    server.stop().await;
    let server = start(&place, DriverKind::Process).await;
    let made = make(&server, "with", json!({ "tools": ["here"] })).await;
    ready(&server, &made).await;
    server.stop().await;
}
