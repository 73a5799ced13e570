//! Quotas and times to live, as callers meet them.

use crate::server::{KEY, Server};
use aetherium_gateway::ApiKeys;
use aetherium_model::{
    project::{Limits, Project, ProjectId},
    vm::Vm,
};
use http::StatusCode;
use serde_json::json;

const OTHER_KEY: &str = "other-key-0123456789";

async fn start() -> Server {
    let other: ProjectId = "other".parse().unwrap();
    let keys = ApiKeys::new([KEY]).unwrap().and(&other, [OTHER_KEY]).unwrap();
    Server::start_with(|config| config.keys = keys, |store| store).await
}

#[tokio::test]
async fn what_exceeds_a_limit_is_refused_by_its_name_and_use() {
    let server = start().await;
    let limits = json!({"vms": 1}).to_string();
    let set = server.post("/api/v1/projects/default/limits", &limits).await;
    assert_eq!(set.parse::<Project>().limits, Limits { vms: Some(1), ..Limits::default() });
    assert_eq!(server.post("/api/v1/vms", "{}").await.status, StatusCode::ACCEPTED);
    let refused = server.post("/api/v1/vms", "{}").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    let problem = refused.problem();
    assert_eq!(problem.code.as_str(), "quota_exceeded");
    assert!(problem.detail.contains("may have 1 vms and has 1"), "{}", problem.detail);
    let project: Project = server.get("/api/v1/projects/default").await.parse();
    assert_eq!((project.usage.vms, project.usage.vcpus), (1, 2));
    assert_eq!(server.get("/api/v1/projects/nowhere").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_key_uses_up_its_own_project_and_sets_no_limits() {
    let server = start().await;
    let limits = json!({"vms": 0}).to_string();
    server.post("/api/v1/projects/other/limits", &limits).await.parse::<Project>();
    let with = |path: &str, body: &str| {
        let mut request = server.request(http::Method::POST, path, body);
        let key = format!("Bearer {OTHER_KEY}").parse().unwrap();
        request.headers_mut().insert("authorization", key);
        server.send(request)
    };
    assert_eq!(with("/api/v1/vms", "{}").await.problem().code.as_str(), "quota_exceeded");
    assert_eq!(server.post("/api/v1/vms", "{}").await.status, StatusCode::ACCEPTED);
    let raised = with("/api/v1/projects/other/limits", "{}").await;
    assert_eq!(raised.status, StatusCode::FORBIDDEN);
    assert_eq!(raised.problem().code.as_str(), "forbidden");
}

#[tokio::test]
async fn a_vm_is_given_time_when_it_is_made_and_more_later() {
    let server = start().await;
    let made: Vm = server.post("/api/v1/vms", r#"{"ttl_s": 60}"#).await.parse();
    let lives = |vm: &Vm| vm.expires_at.unwrap().since(vm.created_at).as_secs();
    assert_eq!(lives(&made), 60);
    let path = format!("/api/v1/vms/{}/ttl", made.id);
    let more: Vm = server.post(&path, r#"{"ttl_s": 3600}"#).await.parse();
    assert!((3600..3630).contains(&lives(&more)), "{more:?}");
    let endless: Vm = server.post(&path, "{}").await.parse();
    assert_eq!(endless.expires_at, None);
    for ttl_s in [0, 2_592_001] {
        for path in [path.as_str(), "/api/v1/vms"] {
            let refused = server.post(path, &json!({"ttl_s": ttl_s}).to_string()).await;
            assert_eq!(refused.problem().errors[0].field, "ttl_s");
        }
    }
}
