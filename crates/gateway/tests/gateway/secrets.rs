//! Secrets, as callers meet them: written, listed, removed, and never shown.

use crate::server::{Answer, KEY, Server};
use aetherium_gateway::ApiKeys;
use aetherium_model::{
    page::Page,
    project::ProjectId,
    secret::{Secret, SecretKind},
    vm::Vm,
};
use http::{Method, StatusCode};

const VALUE: &str = "a-value-nobody-must-see";
const OTHER_KEY: &str = "other-key-0123456789";

fn body(name: &str, value: &str) -> String {
    serde_json::json!({ "name": name, "value": value }).to_string()
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

#[tokio::test]
async fn a_secret_is_set_listed_replaced_and_removed_and_its_value_never_comes_back() {
    let server = Server::start().await;
    let path = "/api/v1/secrets";
    let set = server.post(path, &body("TOKEN", VALUE)).await;
    assert_eq!(set.status, StatusCode::OK);
    assert!(!text(&set).contains(VALUE));
    let first: Secret = set.parse();
    assert_eq!((first.kind, first.key_id.as_str()), (SecretKind::Opaque, "test"));
    let again: Secret = server.post(path, &body("TOKEN", "another value")).await.parse();
    assert_eq!(again.id, first.id);
    let listed = server.get(path).await;
    assert!(!text(&listed).contains(VALUE));
    assert_eq!(listed.parse::<Page<Secret>>().items, [again]);
    let gone = server.delete("/api/v1/secrets/TOKEN").await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    let gone = server.delete("/api/v1/secrets/TOKEN").await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_workspace_and_another_project_have_secrets_of_their_own() {
    let other: ProjectId = "other".parse().unwrap();
    let keys = ApiKeys::new([KEY]).unwrap().and(&other, [OTHER_KEY]).unwrap();
    let server = Server::start_with(|config| config.keys = keys, |store| store).await;
    let workspace = server.workspace("w").await;
    server.post("/api/v1/secrets", &body("A", VALUE)).await.parse::<Secret>();
    let own = server.post("/api/v1/workspaces/w/secrets", &body("A", VALUE)).await;
    assert_eq!(own.parse::<Secret>().workspace_id, Some(workspace.id));
    let count = async |path: &str| server.get(path).await.parse::<Page<Secret>>().items.len();
    assert_eq!(count("/api/v1/workspaces/w/secrets").await, 1);
    assert_eq!(count("/api/v1/secrets").await, 1);
    let mut request = server.request(Method::GET, "/api/v1/secrets", "");
    let key = format!("Bearer {OTHER_KEY}").parse().unwrap();
    request.headers_mut().insert("authorization", key);
    assert_eq!(server.send(request).await.parse::<Page<Secret>>().items, []);
    let nowhere = server.post("/api/v1/workspaces/nowhere/secrets", &body("A", VALUE)).await;
    assert_eq!(nowhere.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_refusal_names_what_is_wrong_and_repeats_no_value() {
    let server = Server::start().await;
    for (body, field) in [
        (r#"{"name":"A","value":1234567890}"#, "value"),
        (r#"{"name":"A","value":["1234567890"]}"#, "value"),
        (r#"{"name":"A B","value":"1234567890"}"#, "name"),
        (r#"{"name":"A","value":"1234567890!","encoding":"base64"}"#, "value"),
        (r#"{"name":"A","kind":"git_token","value":"1234567890 "}"#, "value"),
        (r#"{"name":"A","kind":"ssh_key","value":"1234567890"}"#, "value"),
        (r#"{"name":"A","value":""}"#, "value"),
    ] {
        let refused = server.post("/api/v1/secrets", body).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert!(!text(&refused).contains("1234567890"), "{}", text(&refused));
        assert_eq!(refused.problem().errors[0].field, field, "{body}");
    }
    server.workspace("w").await;
    for asked in [r#"{"A":"B"}"#, r#"["A B"]"#] {
        let prompt = format!(r#"{{"prompt":"true","secrets":{asked}}}"#);
        let refused = server.post("/api/v1/workspaces/w/prompts", &prompt).await;
        assert_eq!(refused.problem().errors[0].field, "secrets", "{asked}");
    }
}

#[tokio::test]
async fn a_command_asks_for_secrets_by_name_and_its_record_has_the_names_alone() {
    let server = Server::start().await;
    server.post("/api/v1/secrets", &body("TOKEN", VALUE)).await.parse::<Secret>();
    let vm: Vm = server.post("/api/v1/vms", "{}").await.parse();
    let execute = r#"{"argv":["true"],"async":true,"secrets":["TOKEN"]}"#;
    let queued = server.post(&format!("/api/v1/vms/{}/execute", vm.id), execute).await;
    assert_eq!(queued.status, StatusCode::ACCEPTED, "{}", text(&queued));
    let record = text(&queued);
    assert!(record.contains(r#""secrets":{"TOKEN":{"secret":"TOKEN"}}"#), "{record}");
    assert!(!record.contains(VALUE));
}
