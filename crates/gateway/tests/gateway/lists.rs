//! Lists: every entry once, newest first, and filtered as asked.

use crate::server::Server;
use http::StatusCode;
use serde_json::Value;

/// Walks a list to its end and returns the ids, in order.
async fn walk(server: &Server, path: &str, limit: usize) -> Vec<String> {
    let mut ids = Vec::new();
    let mut cursor = String::new();
    loop {
        let join = if path.contains('?') { '&' } else { '?' };
        let page = server.get(&format!("{path}{join}limit={limit}{cursor}")).await.json();
        let items = page["items"].as_array().unwrap_or_else(|| panic!("{page}"));
        assert!(items.len() <= limit);
        ids.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return ids,
        }
        assert!(ids.len() < 1000, "the walk does not end");
    }
}

#[tokio::test]
async fn walking_the_pages_of_a_list_meets_every_entry_once_newest_first() {
    let server = Server::start().await;
    let workspace = server.workspace("first").await;
    let vm = server.vm().await;
    let mut made: Vec<Vec<String>> =
        vec![vec![workspace.id.to_string()], vec![vm.id.to_string()], vec![], vec![]];
    for number in 0..11 {
        made[0].push(server.workspace(&format!("w{number}")).await.id.to_string());
        made[1].push(server.vm().await.id.to_string());
        made[2].push(server.prompt(&workspace).await.id.to_string());
        made[3].push(server.execution(&vm).await.id.to_string());
    }
    let paths = [
        "/api/v1/workspaces".to_owned(),
        "/api/v1/vms".to_owned(),
        "/api/v1/workspaces/first/prompts".to_owned(),
        format!("/api/v1/vms/{}/executions", vm.id),
    ];
    for (path, mut expected) in paths.iter().zip(made) {
        // Ids sort by time, which is what newest first means.
        expected.sort_unstable_by(|a, b| b.cmp(a));
        for limit in [1, 4, 11, 12, 200] {
            assert_eq!(walk(&server, path, limit).await, expected, "{path} by {limit}");
        }
    }
    assert_eq!(walk(&server, "/api/v1/tasks", 7).await.len(), 12 + 12 + 11);
    assert_eq!(walk(&server, "/api/v1/tasks?type=prompt:execute&state=queued", 2).await.len(), 11);
    assert_eq!(walk(&server, "/api/v1/workers", 1).await, [server.worker_id.to_string()]);
}

#[tokio::test]
async fn vms_are_listed_by_workspace_and_by_whether_they_live() {
    let server = Server::start().await;
    let mut ended = server.vm().await;
    let alive = server.vm().await;
    ended.state = aetherium_model::vm::VmState::Failed {
        termination: aetherium_model::Fault::new(aetherium_model::Code::KernelPanic, "x"),
    };
    server.queue.store().update_vm(&ended).await.unwrap();
    assert_eq!(walk(&server, "/api/v1/vms?live=true", 10).await, [alive.id.to_string()]);
    assert_eq!(walk(&server, "/api/v1/vms?live=false", 10).await.len(), 2);
    server.workspace("w").await;
    assert_eq!(walk(&server, "/api/v1/vms?workspace=w", 10).await.len(), 0);
    let answer = server.get("/api/v1/vms?workspace=nobody").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn templates_are_those_that_the_workers_hold() {
    let mut server = Server::start().await;
    let list = server.get("/api/v1/templates?limit=1").await.json();
    assert_eq!(list["items"][0]["name"], "default");
    assert_eq!(list["next_cursor"], Value::Null);
    let one = server.get("/api/v1/templates/default").await;
    assert_eq!(one.json(), list["items"][0]);
    assert_eq!(server.get("/api/v1/templates/absent").await.status, StatusCode::NOT_FOUND);
    server.worker.kill().await;
    let answer = server.get("/api/v1/templates").await;
    assert_eq!(answer.problem().code.as_str(), "unavailable");
}

#[tokio::test]
async fn a_worker_that_fell_silent_is_shown_as_gone_and_its_address_never() {
    let server = Server::start().await;
    let path = format!("/api/v1/workers/{}", server.worker_id);
    assert_eq!(server.get(&path).await.json()["state"], "active");
    let lease =
        aetherium_model::worker::Lease::try_from(std::time::Duration::from_secs(1)).unwrap();
    let store = server.queue.store();
    store.register_worker(&server.worker_row(), Some(lease)).await.unwrap();
    let deadline = std::time::Instant::now() + crate::server::LONG;
    while server.get(&path).await.json()["state"] == "active" {
        assert!(std::time::Instant::now() < deadline, "it is never gone");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for answer in [server.get(&path).await, server.get("/api/v1/workers").await] {
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(text.contains("\"gone\"") && !text.contains("worker.sock"), "{text}");
    }
}
