//! The description, and that the service is what it describes.

use crate::{
    auth::operations,
    server::{Server, completed, now},
};
use aetherium_model::{
    WebhookId,
    event::EventFilter,
    page::PageRequest,
    secret::{SecretKind, SecretScope},
    webhook::{Delivery, Webhook, WebhookSecret, WebhookState},
};
use aetherium_secrets::SecretValue;
use aetherium_store::RunRef;
use http::{Method, StatusCode};
use serde_json::Value;
use std::path::Path;

fn document() -> Value {
    serde_json::to_value(aetherium_gateway::openapi()).unwrap()
}

#[test]
fn the_description_is_the_one_that_was_agreed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openapi.json");
    let current = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    let agreed = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = agreed.lines().zip(current.lines()).position(|(a, b)| a != b);
    assert!(
        agreed == current,
        "tests/openapi.json differs from line {differs:?} on; if that is wanted, run with UPDATE_GOLDEN=1"
    );
}

#[test]
fn every_reference_in_the_description_leads_somewhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match value.as_str() {
                        Some(target) if key == "$ref" => found.push(target.to_owned()),
                        _ => references(value, found),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50, "only {} references", found.len());
    for target in found {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target} leads nowhere");
    }
}

#[test]
fn every_operation_has_a_name_of_its_own_a_summary_and_its_problems() {
    let document = document();
    let mut names = std::collections::BTreeSet::new();
    for (method, path) in operations() {
        let operation = &document["paths"][&path][method.as_str().to_lowercase()];
        assert!(operation["summary"].is_string(), "{method} {path} has no summary");
        let name = operation["operationId"].as_str().unwrap();
        assert!(names.insert(name.to_owned()), "{method} {path}: {name} is taken");
        if path != "/health" && path != "/ready" {
            let problem = &operation["responses"]["default"]["content"]["application/problem+json"];
            assert!(problem.is_object(), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn every_described_operation_is_done_as_described() {
    let server = Server::start().await;
    let mut answered = 0;
    for (number, (method, path)) in operations().into_iter().enumerate() {
        // Everything anew, since some operations end what they are done to, or keep it from having more.
        server.queue.store().activate_worker(server.worker_id, now()).await.unwrap();
        let workspace = server.workspace(&format!("w{number}")).await;
        let prompt = server.prompt(&workspace).await;
        let vm = server.vm().await;
        let execution = server.execution(&vm).await;
        // So that streams end. A prompt that waits can only be cancelled.
        for (run, state) in [
            (RunRef::Prompt(prompt.id), aetherium_model::run::RunState::Cancelled),
            (RunRef::Execution(execution.id), completed(0)),
        ] {
            let _ = server.queue.finish_run(run, state, now()).await.unwrap();
        }
        let delivery = delivery(&server).await;
        for scope in [SecretScope::Project, SecretScope::Workspace(workspace.id)] {
            let (name, value) = ("TOKEN".parse().unwrap(), SecretValue::new(b"value".to_vec()));
            let put =
                server.queue.store().put_secret(scope, &name, SecretKind::Opaque, &value, now());
            put.await.unwrap();
        }
        let environment = server.environment(&format!("e{number}")).await;
        // Of all tasks, one that failed to remove something can be done again.
        let task = match path.ends_with("/requeue") {
            true => server.failed_delete(&vm).await,
            false => prompt.task_id,
        };
        let concrete = path
            .replace("{workspace}", workspace.name.as_str())
            .replace("{prompt}", &prompt.id.to_string())
            .replace("{vm}", &vm.id.to_string())
            .replace("{execution}", &execution.id.to_string())
            .replace("{task}", &task.to_string())
            .replace("{worker}", &server.worker_id.to_string())
            .replace("{webhook}", &delivery.webhook_id.to_string())
            .replace("{delivery}", &delivery.id.to_string())
            .replace("{project}", "default")
            .replace("{secret}", "TOKEN")
            .replace("{snapshot}", "first")
            .replace("{template}", "default")
            .replace("{assistant}", "shell")
            .replace("{environment}", environment.name.as_str())
            .replace("{version}", "1");
        assert!(!concrete.contains('{'), "{concrete}");
        let name = format!(r#"{{"name":"made{number}"}}"#);
        let body = match (method.as_str(), path.as_str()) {
            (
                "POST",
                "/api/v1/workspaces"
                | "/api/v1/environments"
                | "/api/v1/vms/{vm}/snapshot"
                | "/api/v1/workspaces/{workspace}/disk/snapshots",
            ) => name.as_str(),
            ("POST", "/api/v1/workspaces/{workspace}/disk/grow") => r#"{"size_mib":1048576}"#,
            ("POST", "/api/v1/workspaces/{workspace}/prompts") => r#"{"prompt":"true"}"#,
            ("POST", "/api/v1/templates") => {
                r#"{"name":"app","recipe":{"base":{"template":"default"}}}"#
            }
            ("POST", "/api/v1/vms/{vm}/execute" | "/api/v1/workspaces/{workspace}/execute") => {
                r#"{"argv":["true"]}"#
            }
            ("POST", "/api/v1/secrets" | "/api/v1/workspaces/{workspace}/secrets") => {
                r#"{"name":"TOKEN","value":"value"}"#
            }
            ("POST", "/api/v1/webhooks") => r#"{"url":"https://example.com/","active":false}"#,
            ("PATCH", "/api/v1/webhooks/{webhook}") => r#"{"active":false}"#,
            ("PUT", "/api/v1/environments/{environment}") => r#"{"version":1,"vcpus":2}"#,
            ("PATCH", _) => r#"{"balloon_mib":16}"#,
            ("POST", _) => "{}",
            _ => "",
        };
        let answer = server.send(server.request(method.clone(), &concrete, body)).await;
        if path.ends_with("/exec") {
            assert_eq!(answer.problem().errors[0].field, "Upgrade");
            continue;
        }
        let described = &document()["paths"][&path][method.as_str().to_lowercase()]["responses"];
        let status = answer.status.as_u16().to_string();
        assert!(answer.status.is_success(), "{method} {concrete}: {answer:?}");
        assert!(described[&status].is_object(), "{method} {path} answered {status} undescribed");
        answered += 1;
    }
    assert!(answered > 25, "only {answered} operations");
}

/// A delivery of a webhook that the gateway may not speak to.
async fn delivery(server: &Server) -> Delivery {
    let webhook = Webhook {
        id: WebhookId::new(),
        url: "http://127.0.0.1:1/".into(),
        filter: EventFilter::default(),
        state: WebhookState::Active,
        reached: 0,
        failures: 0,
        created_at: now(),
        updated_at: now(),
    };
    let store = server.queue.store();
    let secret = WebhookSecret::of([7; 32]);
    let webhook = store.create_webhook(&webhook, &secret).await.unwrap();
    server.vm().await;
    loop {
        let page = store.deliveries(webhook.id, &PageRequest::default()).await.unwrap();
        if let Some(delivery) = page.items.into_iter().next() {
            return delivery;
        }
        store.spread_events(webhook.id, now()).await.unwrap();
    }
}

#[tokio::test]
async fn the_description_is_served_as_it_is_exported() {
    let server = Server::start().await;
    let answer = server.send(server.request(Method::GET, "/api/v1/openapi.json", "")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json(), document());
}
