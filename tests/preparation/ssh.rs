//! Repositories that are cloned over SSH: from a server that is known, with a key that stays in the guest's
//! memory, by the guest's own git in a VM of its own.

use super::{log, prepared, settled, steps};
use crate::{
    ssh_server::SshServer,
    world::{BOOT, Place, Server, assets, id, state},
};
use aetherium_image::TemplateStore;
use aetherium_model::{Name, resources::DriverKind};
use serde_json::{Value, json};
use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

/// Where the repository goes that names no place.
const CLONE: &str = "/home/dev/workspace";
/// The arguments of every process of the guest, a line each; then whose the files of secrets are.
const LOOK: &str = "for it in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$it 2>/dev/null; echo; done; \
                    stat -c '%U %a %n' /run/aetherium/secrets/*; \
                    stat -f -c 'on %T' /run/aetherium/secrets";

/// A place with the template that has git and ssh.
fn place() -> Place {
    let place = Place::new();
    let store = TemplateStore::open(assets().join("data/templates")).unwrap();
    let with_git = store.get(&"git".parse::<Name>().unwrap()).unwrap();
    place.template_like(&with_git, "git", |_| {});
    place
}

async fn start(place: &Place) -> Server<'_> {
    Server::start_with(place, DriverKind::Qemu, &["--boot-deadline", "200s"]).await
}

async fn keep(server: &Server<'_>, name: &str, key: &str) {
    let body = json!({ "name": name, "kind": "ssh_key", "value": key });
    server.post("/secrets", body).await;
}

/// A setup that clones, and the workspace whose it is.
fn cloning(repository: &SshServer, known_hosts: &str, credential: Option<&str>) -> Value {
    let mut wanted = json!({ "url": repository.url, "known_hosts": known_hosts });
    if let Some(credential) = credential {
        wanted["credential"] = json!(credential);
    }
    json!({ "user": "dev", "repository": wanted })
}

async fn create(server: &Server<'_>, setup: Value) -> String {
    let made = server
        .post("/workspaces", json!({
            "name": "clones", "template": "git", "memory_mib": 256, "network": "egress", "setup": setup,
        }))
        .await;
    format!("/workspaces/{}", id(&made))
}

/// What root sees in a workspace's guest.
async fn in_guest(server: &Server<'_>, workspace: &str, line: &str) -> String {
    let vm = server.get(workspace).await["vm_id"].as_str().unwrap().to_owned();
    let body = json!({ "argv": ["/bin/sh", "-c", line], "user": "root" });
    let ran = server.post(&format!("/vms/{vm}/execute"), body).await;
    ran["stdout"].as_str().unwrap().to_owned()
}

/// The lines of a key that no other key has.
fn secret_lines(key: &str) -> Vec<&str> {
    let body: Vec<_> = key.lines().filter(|line| !line.starts_with("-----")).collect();
    // The first has what keys begin with, and of the public key.
    body[1..].to_vec()
}

fn has(text: &str, key: &str) -> bool {
    secret_lines(key).into_iter().any(|line| text.contains(line))
}

/// The arguments of every process of this machine.
fn arguments() -> String {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let arguments = processes.filter_map(|it| fs::read(it.path().join("cmdline")).ok());
    arguments.map(|it| String::from_utf8_lossy(&it).into_owned() + "\n").collect()
}

/// The files of the server with a line of the key.
fn files_with(place: &Place, key: &str) -> String {
    let mut search = Command::new("grep");
    search.args(["-rlazF", "-D", "skip"]);
    for line in secret_lines(key) {
        search.args(["-e", line]);
    }
    let ran = search.arg(place.path()).output().unwrap();
    assert!(ran.status.code().is_some_and(|code| code <= 1), "{ran:?}");
    String::from_utf8(ran.stdout).unwrap()
}

#[tokio::test]
async fn a_repository_is_cloned_with_a_key_that_is_in_no_argument_no_log_and_no_file() {
    let (place, repository) = (place(), SshServer::start());
    let server = start(&place).await;
    // As a shell's `$(cat key)` gives it: without the end of its last line.
    let key = repository.key.trim_end();
    keep(&server, "DEPLOY", key).await;
    repository.hold();
    let setup = cloning(&repository, &repository.known_hosts, Some("DEPLOY"));
    let workspace = create(&server, setup).await;
    let deadline = Instant::now() + BOOT;
    while !repository.was_entered() {
        let now = server.get(&workspace).await;
        assert_ne!(state(&now), "failed", "{now:#}\n{}", log(&server, &now).await);
        assert!(Instant::now() < deadline, "{now:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let seen = in_guest(&server, &workspace, LOOK).await;
    assert!(
        seen.contains("git-upload-pack") && seen.contains(" -i /run/aetherium/secrets/"),
        "{seen}"
    );
    assert!(!has(&seen, key), "{seen}");
    assert!(seen.lines().any(|it| it.starts_with("dev 400 /run/aetherium/secrets/")), "{seen}");
    assert!(seen.ends_with("on tmpfs\n"), "{seen}");
    assert!(!has(&arguments(), key), "the arguments of a process of the host have it");
    repository.let_go();

    let ready = settled(&server, &workspace).await;
    let told = log(&server, &ready).await;
    assert_eq!(state(&ready), "ready", "{ready:#}\n{told}");
    let look = "pwd; cat file; git remote get-url origin; git status --porcelain; \
                cat .git/config; ls -A /tmp /run/aetherium/secrets";
    let answer = server.answer(&workspace, look).await;
    assert!(answer.starts_with(&format!("{CLONE}\ntwo\n{}\n", repository.url)), "{answer}");
    assert_eq!(in_guest(&server, &workspace, "ls -A /run/aetherium/secrets").await, "");
    let events = server.get("/events").await.to_string();
    assert!(events.contains("secret.read"), "{events}");
    for text in [&told, &answer, &events, &server.log(), &ready.to_string()] {
        assert!(!has(text, key), "{text}");
    }
    assert_eq!(files_with(&place, key), "");
    server.stop().await;
    place.assert_no_vm_is_left();
    assert_eq!(files_with(&place, key), "");
    // The search finds what there is to find.
    let control = place.path().join("control");
    fs::write(&control, format!("\0{key}")).unwrap();
    assert_eq!(files_with(&place, key), format!("{}\n", control.display()));
}

#[tokio::test]
async fn nothing_is_cloned_from_a_server_that_is_not_known_nor_with_a_key_that_it_does_not_take() {
    let (place, repository) = (place(), SshServer::start());
    let server = start(&place).await;
    keep(&server, "DEPLOY", &repository.key).await;
    keep(&server, "STRANGE", &repository.strange_key()).await;
    let known = &repository.known_hosts;
    let another = repository.known_as_another();
    let unknown = known.replace("172.16.0.1", "172.16.0.9");
    let server_unknown = "the server shows no host key that is in known_hosts";
    let key_refused = "the server lets nobody in with the key that it was shown";
    let tries = [
        ("another", cloning(&repository, &another, Some("DEPLOY")), server_unknown),
        ("unknown", cloning(&repository, &unknown, Some("DEPLOY")), server_unknown),
        ("strange", cloning(&repository, known, Some("STRANGE")), key_refused),
        ("none", cloning(&repository, known, None), "the server wants a key, and none was given"),
    ];
    let workspace = create(&server, tries[0].1.clone()).await;
    for (number, (which, setup, wanted)) in tries.into_iter().enumerate() {
        let failed = match number {
            0 => settled(&server, &workspace).await,
            _ => prepared(&server, &workspace, json!({ "setup": setup })).await,
        };
        let fault = &failed["fault"];
        assert_eq!(
            (state(&failed), steps(&failed)),
            ("failed", vec!["failed"]),
            "{which} {failed:#}"
        );
        assert_eq!(fault["code"], "step_failed", "{which} {failed:#}");
        assert!(fault["detail"].as_str().unwrap().ends_with(wanted), "{which} {failed:#}");
        assert!(!repository.was_entered(), "{which}");
        assert_eq!(in_guest(&server, &workspace, &format!("ls -A {CLONE}")).await, "", "{which}");
    }
    let gone = cloning(&repository, known, Some("GONE"));
    let failed = prepared(&server, &workspace, json!({ "setup": gone })).await;
    assert_eq!(failed["fault"]["code"], "secret_missing", "{failed:#}");
    assert!(!repository.was_entered());

    let right = cloning(&repository, known, Some("DEPLOY"));
    let ready = prepared(&server, &workspace, json!({ "setup": right })).await;
    assert_eq!(state(&ready), "ready", "{ready:#}\n{}", log(&server, &ready).await);
    assert_eq!(server.answer(&workspace, "cat file").await, "two\n");
    server.stop().await;
    place.assert_no_vm_is_left();
}
