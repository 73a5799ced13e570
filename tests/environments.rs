//! Environments, by the command line: made of a file, changed, and made into workspaces.

use crate::world::{Place, Server};
use aetherium_model::resources::DriverKind;
use serde_json::Value;
use std::{fs, process::Output};

/// What docs/environments.md shows as a whole.
fn documented() -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/environments.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("```toml\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

fn run(place: &Place, arguments: &[&str]) -> Output {
    place.aetherium().args(arguments).output().unwrap()
}

fn said(place: &Place, arguments: &[&str]) -> String {
    let ran = run(place, arguments);
    assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

fn json(place: &Place, arguments: &[&str]) -> Value {
    serde_json::from_str(&said(place, &[arguments, &["--json"]].concat())).unwrap()
}

fn refused(place: &Place, arguments: &[&str]) -> String {
    let ran = run(place, arguments);
    assert!(!ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stdout));
    String::from_utf8(ran.stderr).unwrap()
}

#[tokio::test]
async fn an_environment_is_made_of_a_file_changed_and_made_into_workspaces() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let file = place.path().join("web.toml");
    let file = file.to_str().unwrap();
    fs::write(file, documented()).unwrap();
    let made = json(&place, &["env", "create", "web", "--file", file]);
    assert_eq!((&made["version"], &made["name"]), (&1.into(), &"web".into()), "{made}");

    // What it shows says the same, and so makes no version.
    let shown = said(&place, &["env", "get", "web"]);
    assert!(shown.starts_with("# web, version 1 of "), "{shown}");
    fs::write(file, &shown).unwrap();
    let same = said(&place, &["env", "update", "web", "--file", file]);
    assert!(same.ends_with("web version 1\n"), "{same}");

    let more = ["env", "update", "web", "--tool", "jq", "--env", "STAGE=demo", "--vcpus", "1"];
    assert!(said(&place, &more).ends_with("web version 2\n"));
    let late = ["env", "update", "web", "--file", file, "--if-version", "1"];
    assert!(refused(&place, &late).contains("at version 2, not at 1"));
    let versions = json(&place, &["env", "versions", "web"]);
    assert_eq!(versions["items"].as_array().unwrap().len(), 2);
    let first = json(&place, &["env", "get", "web", "--version", "1"]);
    assert_eq!(first["setup"], made["setup"]);
    assert_eq!(json(&place, &["env", "list"])["items"][0]["version"], 2);

    // Nothing of this one can be prepared here.
    said(
        &place,
        &["env", "create", "small", "--env", "A=1", "--env", "B=1", "--idle-timeout-s", "60"],
    );
    let create = ["ws", "create", "demo", "--environment", "small", "--env", "B=2"];
    let workspace = json(&place, &create);
    assert_eq!(workspace["environment"]["name"], "small");
    assert_eq!(workspace["setup"]["env"], serde_json::json!({"A": "1", "B": "2"}));
    assert_eq!(workspace["idle_timeout_s"], 60);
    said(&place, &["env", "delete", "small"]);
    let kept = json(&place, &["ws", "get", "demo"]);
    assert_eq!(kept["environment"], workspace["environment"]);
    let unknown = refused(&place, &["ws", "create", "other", "--environment", "small"]);
    assert!(unknown.contains("environment: there is no environment \"small\""), "{unknown}");
    server.stop().await;
}

#[tokio::test]
async fn a_file_that_says_what_it_must_not_is_refused_with_the_place() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let file = place.path().join("bad.toml");
    let file = file.to_str().unwrap();
    for (text, says) in [
        ("vcpus = 1\ncpus = 2\n", "bad.toml:2: cpus: unknown field"),
        ("[setup]\ntools = [\"git\", \"a b\"]\n", "bad.toml:2: setup.tools[1]"),
        ("[setup]\ntools = [\"git\", \"nodjs\"]\n", "did you mean nodejs"),
        ("[setup.repository]\nurl = \"https://u:hunter2@h/x\"\n", "setup.repository.url"),
        ("ai_assistant = \"hal\"\n", "ai_assistant: there is no assistant \"hal\""),
    ] {
        fs::write(file, text).unwrap();
        let error = refused(&place, &["env", "create", "bad", "--file", file]);
        assert!(error.contains(says) && !error.contains("hunter2"), "{text}: {error}");
    }
    let alone = refused(&place, &["env", "create", "bad", "--branch", "main"]);
    assert!(alone.contains("--repository"), "{alone}");
    assert_eq!(json(&place, &["env", "list"])["items"], serde_json::json!([]));
    server.stop().await;
}
