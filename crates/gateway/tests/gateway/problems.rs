//! Every way a request can fail is a problem that names its cause.

use crate::server::Server;
use aetherium_model::limits::MAX_BODY_BYTES;
use http::{Method, StatusCode};
use std::time::Duration;

#[tokio::test]
async fn an_unknown_route_and_a_wrong_method_are_told_apart() {
    let server = Server::start().await;
    for path in ["/", "/api", "/api/v2/vms", "/api/v1/vms/", "/api/v1/%ff"] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(answer.problem().code.as_str(), "not_found");
    }
    let answer = server.send(server.request(Method::PUT, "/api/v1/vms", "{}")).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    let problem = answer.problem();
    assert_eq!(problem.code.as_str(), "method_not_allowed");
    assert!(problem.detail.contains("PUT"), "{problem:?}");
    let allow = answer.headers["allow"].to_str().unwrap();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
}

#[tokio::test]
async fn what_names_nothing_is_not_found() {
    let server = Server::start().await;
    let absent = aetherium_model::VmId::new();
    for path in [
        format!("/api/v1/vms/{absent}"),
        format!("/api/v1/vms/{absent}/console"),
        format!("/api/v1/vms/{absent}/executions"),
        "/api/v1/vms/nonsense".to_owned(),
        "/api/v1/vms/%00".to_owned(),
        "/api/v1/workspaces/absent".to_owned(),
        "/api/v1/workspaces/..%2f..".to_owned(),
        format!("/api/v1/tasks/{absent}"),
        "/api/v1/executions/x/events".to_owned(),
    ] {
        let answer = server.get(&path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}: {answer:?}");
        assert_eq!(answer.problem().code.as_str(), "not_found");
    }
}

#[tokio::test]
async fn a_field_that_is_unknown_or_not_allowed_is_named_by_its_path() {
    let server = Server::start().await;
    server.workspace("w").await;
    let vm = server.vm().await;
    let execute = format!("/api/v1/vms/{}/execute", vm.id);
    let prompts = "/api/v1/workspaces/w/prompts";
    let long = format!(r#"{{"prompt":"{}"}}"#, "x".repeat(300_000));
    let past_shell = format!(r#"{{"prompt":"{}"}}"#, "x".repeat(200_000));
    for (path, body, field) in [
        ("/api/v1/workspaces", r#"{"name":"a","ai_asistant":"shell"}"#, "ai_asistant"),
        ("/api/v1/workspaces", r#"{"ai_assistant":"shell"}"#, "name"),
        ("/api/v1/workspaces", r#"{"name":"../x"}"#, "name"),
        ("/api/v1/workspaces", r#"{"name":"a","ai_assistant":"nobody"}"#, "ai_assistant"),
        ("/api/v1/workspaces", r#"{"name":"a","vcpus":33}"#, "vcpus"),
        ("/api/v1/workspaces", r#"{"name":"a","idle_timeout_s":0}"#, "idle_timeout_s"),
        ("/api/v1/workspaces", r#"{"name":"a","name":"b"}"#, "name"),
        ("/api/v1/vms", r#"{"memory_mib":"big"}"#, "memory_mib"),
        ("/api/v1/vms", r#"{"network":"everything"}"#, "network"),
        ("/api/v1/vms", r#"{"disk_mib":-1}"#, "disk_mib"),
        ("/api/v1/vms", "3", "body"),
        ("/api/v1/vms", "[]", "body"),
        (&execute, r#"{"argv":[]}"#, "argv"),
        (&execute, r#"{"argv":["a",7]}"#, "argv[1]"),
        (&execute, r#"{"argv":["a"],"env":{"A":1}}"#, "env.A"),
        (&execute, r#"{"argv":["a"],"cwd":"tmp"}"#, "cwd"),
        (&execute, r#"{"argv":["a"],"timeout_ms":0}"#, "timeout_ms"),
        (&execute, r#"{"argv":["a"],"asynk":true}"#, "asynk"),
        (prompts, r#"{"prompt":""}"#, "prompt"),
        (prompts, r#"{"prompt":"a\u0000b"}"#, "prompt"),
        (prompts, r#"{"prompt":"a","timeout_ms":86400001}"#, "timeout_ms"),
        (prompts, &long, "prompt"),
        (prompts, &past_shell, "prompt"),
    ] {
        let answer = server.post(path, body).await;
        let shown = &body[..body.len().min(60)];
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{path} {shown}: {answer:?}");
        let problem = answer.problem();
        assert_eq!(problem.code.as_str(), "invalid_request");
        assert_eq!(problem.errors.len(), 1, "{problem:?}");
        assert_eq!(problem.errors[0].field, field, "{path} {shown}: {problem:?}");
        assert!(!problem.errors[0].problem.is_empty());
    }
}

#[tokio::test]
async fn a_query_parameter_that_is_unknown_or_not_allowed_is_named() {
    let server = Server::start().await;
    let vm = server.vm().await;
    for (query, field) in [
        ("/api/v1/vms?limt=3", "limt"),
        ("/api/v1/vms?limit=0", "limit"),
        ("/api/v1/vms?limit=201", "limit"),
        ("/api/v1/vms?limit=x", "limit"),
        ("/api/v1/vms?limit=1&limit=2", "limit"),
        ("/api/v1/vms?live=perhaps", "live"),
        ("/api/v1/vms?workspace=%2f", "workspace"),
        ("/api/v1/tasks?state=lost", "state"),
        ("/api/v1/tasks?type=vm:explode", "type"),
        ("/api/v1/templates?all=1", "all"),
    ] {
        let problem = server.get(query).await.problem();
        assert_eq!(problem.code.as_str(), "invalid_request", "{query}");
        assert_eq!(problem.errors[0].field, field, "{query}: {problem:?}");
    }
    let console = format!("/api/v1/vms/{}/console?tail_bytes=0", vm.id);
    assert_eq!(server.get(&console).await.problem().errors[0].field, "tail_bytes");
    let cursor = server.get("/api/v1/vms?cursor=nonsense").await;
    assert_eq!(cursor.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(cursor.problem().detail.contains("nonsense"));
}

#[tokio::test]
async fn a_header_that_is_not_allowed_is_named() {
    let server = Server::start().await;
    for key in ["", "a b", &"x".repeat(256)] {
        let answer = server.post_with_key("/api/v1/vms", "{}", key).await;
        assert_eq!(answer.problem().errors[0].field, "Idempotency-Key", "{key:?}");
    }
    let vm = server.vm().await;
    let execution = server.execution(&vm).await;
    let path = format!("/api/v1/executions/{}/events", execution.id);
    for seen in ["x", "-1", "1.5", ""] {
        let mut request = server.request(Method::GET, &path, "");
        request.headers_mut().insert("last-event-id", seen.parse().unwrap());
        let answer = server.send(request).await;
        assert_eq!(answer.problem().errors[0].field, "Last-Event-ID", "{seen:?}");
    }
    let answer = server.get(&format!("{path}?after=-1")).await;
    assert_eq!(answer.problem().errors[0].field, "after");
}

#[tokio::test]
async fn what_is_not_json_is_told_by_line_and_column() {
    let server = Server::start().await;
    for body in ["", "{", "{\n\"vcpus\" 3}", "{} x", "\u{feff}{}"] {
        let answer = server.post("/api/v1/vms", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body:?}: {answer:?}");
        let problem = answer.problem();
        assert_eq!(problem.code.as_str(), "malformed_request");
        assert!(problem.detail.contains("line"), "{problem:?}");
    }
    // Depth is no way to exhaust the stack.
    for deep in ["[".repeat(200_000), "{\"template\":".repeat(50_000)] {
        assert!(server.post("/api/v1/vms", &deep).await.status.is_client_error());
    }
}

#[tokio::test]
async fn a_body_that_does_not_say_it_is_json_is_refused() {
    let server = Server::start().await;
    for kind in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let mut request = server.request(Method::POST, "/api/v1/vms", "{}");
        request.headers_mut().remove("content-type");
        if let Some(kind) = kind {
            request.headers_mut().insert("content-type", kind.parse().unwrap());
        }
        let answer = server.send(request).await;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind:?}");
        assert_eq!(answer.problem().code.as_str(), "unsupported_media_type");
    }
    let mut request = server.request(Method::POST, "/api/v1/vms", "{}");
    let kind = "Application/JSON; charset=utf-8".parse().unwrap();
    request.headers_mut().insert("content-type", kind);
    assert_eq!(server.send(request).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_one_at_the_limit_is_read() {
    let server = Server::start().await;
    let sized = |bytes: usize| format!("{{{}", " ".repeat(bytes - 2)) + "}";
    let answer = server.post("/api/v1/vms", &sized(MAX_BODY_BYTES)).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let answer = server.post("/api/v1/vms", &sized(MAX_BODY_BYTES + 1)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer.problem().code.as_str(), "payload_too_large");
}

#[tokio::test]
async fn a_taken_name_is_a_conflict_and_a_full_queue_is_busy() {
    let server = Server::start_with(|_| {}, |store| store.with_max_queued(1)).await;
    let body = r#"{"name":"x"}"#;
    assert_eq!(server.post("/api/v1/workspaces", body).await.status, StatusCode::CREATED);
    let taken = server.post("/api/v1/workspaces", body).await;
    assert_eq!(taken.status, StatusCode::CONFLICT);
    assert_eq!(taken.problem().code.as_str(), "conflict");
    let full = server.post("/api/v1/vms", "{}").await;
    assert_eq!(full.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(full.problem().code.as_str(), "busy");
    assert!(full.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_anyway() {
    let limit = Duration::from_millis(100);
    let server = Server::start_with(|config| config.request_timeout = limit, |store| store).await;
    let vm = server.vm().await;
    *server.worker.seen.stalls.lock().unwrap() = true;
    let answer = server.get(&format!("/api/v1/vms/{}/console", vm.id)).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.problem().code.as_str(), "deadline_exceeded");
}

#[tokio::test]
async fn every_answer_carries_the_request_id_it_was_given_or_a_new_one() {
    let server = Server::start().await;
    for path in ["/health", "/api/v1/vms", "/nothing"] {
        let mut request = server.request(Method::GET, path, "");
        request.headers_mut().insert("x-request-id", "trace-1.a_b".parse().unwrap());
        assert_eq!(server.send(request).await.headers["x-request-id"], "trace-1.a_b", "{path}");
        let one = server.get(path).await.headers["x-request-id"].clone();
        let two = server.get(path).await.headers["x-request-id"].clone();
        assert!(one.to_str().unwrap().starts_with("req_") && one != two, "{one:?}");
    }
}

#[tokio::test]
async fn an_address_that_is_too_long_is_refused() {
    let server = Server::start().await;
    let answer = server.get(&format!("/api/v1/vms?cursor={}", "x".repeat(9000))).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    answer.problem();
}
