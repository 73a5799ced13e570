//! Environments, as callers meet them: in versions, checked, and made into workspaces.

use crate::server::{Answer, Server};
use aetherium_gateway::Problem;
use aetherium_model::{
    Code, EnvironmentId,
    environment::Environment,
    page::Page,
    vm::SnapshotKind,
    workspace::{IdleAction, Workspace},
};
use http::{Method, StatusCode};
use serde_json::{Value, json};

const PATH: &str = "/api/v1/environments";

async fn made(server: &Server, body: Value) -> Environment {
    let answer = server.post(PATH, &body.to_string()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.parse()
}

async fn replaced(server: &Server, name: &str, body: Value) -> Answer {
    let path = format!("{PATH}/{name}");
    server.send(server.request(Method::PUT, &path, &body.to_string())).await
}

/// The one field that a body was refused for, with what was said of it.
fn refused(answer: &Answer) -> (String, String) {
    let Problem { errors, code, .. } = answer.problem();
    assert!(matches!(code, Code::InvalidRequest | Code::NotFound), "{answer:?}");
    assert_eq!(errors.len(), 1, "{errors:?}");
    (errors[0].field.clone(), errors[0].problem.clone())
}

#[tokio::test]
async fn an_environment_is_made_read_changed_and_removed() {
    let server = Server::start().await;
    let first = made(&server, json!({"name": "web", "vcpus": 2, "description": "one"})).await;
    assert_eq!((first.version, first.name.as_str()), (1, "web"));
    for by in [first.id.to_string(), "web".to_owned()] {
        assert_eq!(server.get(&format!("{PATH}/{by}")).await.parse::<Environment>(), first);
    }
    let second = replaced(&server, "web", json!({"version": 1, "description": "two"})).await;
    let second: Environment = second.parse();
    // It was replaced as a whole.
    assert_eq!((second.version, second.spec.vcpus), (2, None));
    assert_eq!(
        server.get(PATH).await.parse::<Page<Environment>>().items,
        std::slice::from_ref(&second)
    );
    let versions = server.get(&format!("{PATH}/web/versions")).await;
    assert_eq!(versions.parse::<Page<Environment>>().items, [second, first.clone()]);
    let old = server.get(&format!("{PATH}/web/versions/1")).await;
    assert_eq!(old.parse::<Environment>(), first);
    for nowhere in ["web/versions/3", "web/versions/one", "other", "other/versions"] {
        let answer = server.get(&format!("{PATH}/{nowhere}")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{nowhere}: {answer:?}");
    }
    let gone = server.delete(&format!("{PATH}/web")).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    assert_eq!(server.delete(&format!("{PATH}/web")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn who_has_not_seen_the_newest_version_overwrites_nothing() {
    let server = Server::start().await;
    made(&server, json!({"name": "web"})).await;
    let one = json!({"version": 1, "vcpus": 2});
    assert_eq!(replaced(&server, "web", one.clone()).await.status, StatusCode::OK);
    let late = replaced(&server, "web", json!({"version": 1, "vcpus": 4})).await;
    assert_eq!(late.status, StatusCode::CONFLICT, "{late:?}");
    assert!(late.problem().detail.contains("at version 2, not at 1"), "{late:?}");
    // The same again is no conflict, and no version.
    let again: Environment = replaced(&server, "web", one).await.parse();
    assert_eq!(again.version, 2);
    let unseen = replaced(&server, "web", json!({"vcpus": 4})).await;
    assert_eq!(refused(&unseen).0, "version");
}

#[tokio::test]
async fn a_create_can_be_repeated_under_its_key_and_a_name_is_taken_once() {
    let server = Server::start().await;
    let body = r#"{"name":"web","vcpus":2}"#;
    let first: Environment = server.post_with_key(PATH, body, "k").await.parse();
    assert_eq!(server.post_with_key(PATH, body, "k").await.parse::<Environment>(), first);
    let taken = server.post(PATH, body).await;
    assert_eq!(taken.status, StatusCode::CONFLICT, "{taken:?}");
    let other = server.post_with_key(PATH, r#"{"name":"other"}"#, "k").await;
    assert_eq!(other.problem().code, Code::IdempotencyMismatch);
}

#[tokio::test]
async fn each_field_that_is_not_allowed_is_named() {
    let server = Server::start().await;
    for (body, field, says) in [
        (json!({"vcpus": 2}), "name", "missing"),
        (json!({"name": "a", "tools": []}), "tools", "unknown"),
        (json!({"name": EnvironmentId::new()}), "name", "id"),
        (json!({"name": "a", "ai_assistant": "hal"}), "ai_assistant", "shell"),
        (json!({"name": "a", "idle_timeout_s": 0}), "idle_timeout_s", "1 to 604800"),
        (json!({"name": "a", "setup": {"tools": ["git", "x", "a b"]}}), "setup.tools[2]", "a b"),
        (json!({"name": "a", "setup": {"tools": ["git", "nodjs"]}}), "setup.tools[1]", "nodejs"),
        (
            json!({"name": "a", "setup": {"repository": {"url": "https://u:p@h/x"}}}),
            "setup.repository.url",
            "`credential`",
        ),
        (
            json!({"name": "a", "setup": {"repository": {"url": "https://h/x", "branch": "-x"}}}),
            "setup.repository.branch",
            "-x",
        ),
        (
            json!({"name": "a", "setup": {"mcp_servers": {"x": {
                "type": "http", "url": "https://h/", "headers": {"Authorization": "${TOKEN}"},
            }}}}),
            "setup.mcp_servers.x.headers.Authorization",
            "${TOKEN}",
        ),
    ] {
        let answer = server.post(PATH, &body.to_string()).await;
        let (named, problem) = refused(&answer);
        assert_eq!(named, field, "{body}");
        assert!(problem.contains(says), "{problem}");
    }
}

#[tokio::test]
async fn a_workspace_is_made_from_an_environment_and_keeps_what_that_said_then() {
    let server = Server::start().await;
    let environment = made(
        &server,
        json!({
            "name": "web", "ai_assistant": "shell", "memory_mib": 640, "idle_timeout_s": 60,
            "idle_action": "stop", "secrets": ["TOKEN"],
            "setup": {"tools": ["git"], "env": {"A": "1", "B": "1"}},
        }),
    )
    .await;
    let body = json!({
        "name": "w", "environment": "web", "idle_timeout_s": 30,
        "setup": {"tools": ["nodejs@20"], "env": {"B": "2"}},
    });
    let workspace: Workspace = server.post("/api/v1/workspaces", &body.to_string()).await.parse();
    assert_eq!(workspace.environment, Some(environment.reference()));
    assert_eq!(
        serde_json::to_value(&workspace.setup).unwrap(),
        json!({"tools": ["git", "nodejs@20"], "env": {"A": "1", "B": "2"}})
    );
    assert_eq!(workspace.spec.resources.memory_mib.get(), 640);
    assert_eq!((workspace.idle_timeout_s, workspace.idle_action), (30, IdleAction::Stop));
    assert_eq!(
        serde_json::to_value(&workspace.secrets).unwrap(),
        json!({"TOKEN": {"secret": "TOKEN"}})
    );

    // By its id, too, and in the version that is newest then.
    replaced(&server, "web", json!({"version": 1})).await;
    let body = json!({"name": "w2", "environment": environment.id}).to_string();
    let second: Workspace = server.post("/api/v1/workspaces", &body).await.parse();
    assert_eq!(second.environment.unwrap().version, 2);
    server.delete(&format!("{PATH}/web")).await;
    let first: Workspace = server.get("/api/v1/workspaces/w").await.parse();
    assert_eq!(first, workspace);
}

#[tokio::test]
async fn an_environment_that_hibernates_makes_vms_that_can() {
    let server = Server::start().await;
    made(&server, json!({"name": "web", "idle_action": "hibernate"})).await;
    let body = r#"{"name":"w","environment":"web"}"#;
    let workspace: Workspace = server.post("/api/v1/workspaces", body).await.parse();
    assert_eq!(workspace.spec.snapshots, Some(SnapshotKind::Full));
}

#[tokio::test]
async fn a_workspace_of_an_unknown_environment_or_of_too_much_is_not_made() {
    let server = Server::start().await;
    let step = json!({"do": {"script": {"run": "true"}}});
    made(&server, json!({"name": "big", "setup": {"preparation": vec![step.clone(); 200]}})).await;
    made(&server, json!({"name": "tooled", "setup": {"tools": ["git"]}})).await;
    for (body, status, field) in [
        (json!({"environment": "none"}), 404, "environment"),
        (json!({"ai_assistant": "hal"}), 422, "ai_assistant"),
        (json!({"environment": "tooled", "setup": {"tools": ["nodjs"]}}), 422, "setup.tools[0]"),
        (
            json!({"environment": "big", "setup": {"preparation": vec![step; 100]}}),
            422,
            "setup.preparation",
        ),
        (
            json!({"setup": {"mcp_servers": {"x": {"type": "stdio", "command": "${X}"}}}}),
            422,
            "setup.mcp_servers.x.command",
        ),
    ] {
        let mut whole = body;
        whole["name"] = json!("w");
        let answer = server.post("/api/v1/workspaces", &whole.to_string()).await;
        assert_eq!(answer.status.as_u16(), status, "{answer:?}");
        assert_eq!(refused(&answer).0, field);
    }
    assert_eq!(server.get("/api/v1/workspaces/w").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_mcp_server_may_want_what_the_other_gives() {
    let server = Server::start().await;
    made(&server, json!({"name": "web", "secrets": ["TOKEN"], "setup": {"env": {"HOST": "h"}}}))
        .await;
    let body = json!({"name": "w", "environment": "web", "setup": {"mcp_servers": {"x": {
        "type": "http", "url": "https://${HOST}/", "headers": {"Authorization": "Bearer ${TOKEN}"},
    }}}});
    let answer = server.post("/api/v1/workspaces", &body.to_string()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
}

#[tokio::test]
async fn what_a_prompt_asks_for_is_checked() {
    let server = Server::start().await;
    let workspace = server.workspace("w").await;
    let path = format!("/api/v1/workspaces/{}/prompts", workspace.id);
    for (more, field) in [
        (json!({"env": {"A": "\0"}}), "env.A"),
        (json!({"env": {"A=B": "x"}}), "env.A=B"),
        (json!({"working_directory": "src"}), "working_directory"),
        (json!({"assistant": {"model": ""}}), "assistant.model"),
        (json!({"assistant": {"system_prompt": "x".repeat(70_000)}}), "assistant.system_prompt"),
        (json!({"assistant": {"permission_mode": "root"}}), "assistant.permission_mode"),
    ] {
        let mut body = more;
        body["prompt"] = json!("true");
        assert_eq!(refused(&server.post(&path, &body.to_string()).await).0, field);
    }
    let shell = json!({"prompt": "true", "assistant": {"model": "large"}});
    let refused = refused(&server.post(&path, &shell.to_string()).await);
    assert_eq!(refused.0, "assistant.model", "a shell has no model");
    let body = json!({
        "prompt": "true", "env": {"A": "1"}, "working_directory": "/srv", "new_session": true,
    });
    let answer = server.post(&path, &body.to_string()).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
}
