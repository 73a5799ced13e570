//! Tools: which there are, and what is said to one that there is not.

use crate::server::Server;
use aetherium_gateway::api::{Tool, ToolSource};
use aetherium_model::page::Page;
use http::StatusCode;

#[tokio::test]
async fn all_tools_are_listed_and_each_is_found_by_any_of_its_names() {
    let server = Server::start().await;
    let all: Page<Tool> = server.get("/api/v1/tools").await.parse();
    let names: Vec<_> = all.items.iter().map(|it| it.name.as_str()).collect();
    assert!(names.is_sorted() && names.contains(&"git") && names.contains(&"nodejs"), "{names:?}");
    let node: Tool = server.get("/api/v1/tools/node").await.parse();
    assert_eq!((node.name.as_str(), node.by_default), ("nodejs", ToolSource::Packages));
    assert!(node.versions.contains(&"22".to_owned()) && node.any_number, "{node:?}");
    for unknown in ["nodjs", "nodejs@22"] {
        let answer = server.get(&format!("/api/v1/tools/{unknown}")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{answer:?}");
    }
}

#[tokio::test]
async fn a_workspace_with_a_tool_that_there_is_not_is_refused_with_what_was_likely_meant() {
    let server = Server::start().await;
    let body = r#"{"name":"demo","setup":{"tools":["git","nodjs@20","node@v20"]}}"#;
    let answer = server.post("/api/v1/workspaces", body).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{answer:?}");
    let errors = &answer.json()["errors"];
    assert_eq!(errors[0]["field"], "setup.tools[1]");
    assert_eq!(errors[0]["problem"], "there is no tool \"nodjs\": did you mean nodejs?");
    assert_eq!(errors[1]["field"], "setup.tools[2]");
    let problem = errors[1]["problem"].as_str().unwrap();
    assert!(
        problem.starts_with("node has no version \"v20\": did you mean nodejs@20"),
        "{problem}"
    );
    assert_eq!(server.get("/api/v1/workspaces/demo").await.status, StatusCode::NOT_FOUND);
    let body = r#"{"name":"demo","setup":{"tools":["git","node@20"]}}"#;
    let answer = server.post("/api/v1/workspaces", body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
}
