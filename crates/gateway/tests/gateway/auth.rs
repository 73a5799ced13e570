use crate::server::{KEY, Server};
use http::{Method, StatusCode};

/// Every method and path of the description, with its parameters filled in.
pub(crate) fn operations() -> Vec<(Method, String)> {
    let document = serde_json::to_value(aetherium_gateway::openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let each = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().keys();
        methods.map(move |method| (method.to_uppercase().parse().unwrap(), path.clone()))
    });
    each.collect()
}

#[tokio::test]
async fn every_route_but_health_and_readiness_needs_a_key() {
    let server = Server::start().await;
    let mut guarded = 0;
    for (method, path) in operations() {
        let path = path.replace(['{', '}'], "");
        for key in [None, Some("Bearer "), Some("Bearer wrong-key-0123456789"), Some(KEY)] {
            let mut request = server.request(method.clone(), &path, "{}");
            request.headers_mut().remove("authorization");
            if let Some(key) = key {
                request.headers_mut().insert("authorization", key.parse().unwrap());
            }
            let answer = server.send(request).await;
            if path == "/health" || path == "/ready" {
                assert_eq!(answer.status, StatusCode::OK, "{path}");
                continue;
            }
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path} with {key:?}");
            assert_eq!(answer.problem().code.as_str(), "unauthorized");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
            guarded += 1;
        }
    }
    assert!(guarded > 4 * 25, "only {guarded} requests were refused");
}

#[tokio::test]
async fn what_does_not_exist_is_not_told_to_strangers_either() {
    let server = Server::start().await;
    for path in
        ["/", "/api/v1/nothing", "/health/", "/ready/x", "/HEALTH", "//health", "/health%2f"]
    {
        let mut request = server.request(Method::GET, path, "");
        request.headers_mut().remove("authorization");
        assert_eq!(server.send(request).await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
}

#[tokio::test]
async fn either_header_carries_the_key() {
    let server = Server::start().await;
    for (name, value) in [
        ("authorization", format!("Bearer {KEY}")),
        ("authorization", format!("bearer {KEY}")),
        ("x-api-key", KEY.to_owned()),
    ] {
        let mut request = server.request(Method::GET, "/api/v1/vms", "");
        request.headers_mut().remove("authorization");
        request.headers_mut().insert(name, value.parse().unwrap());
        assert_eq!(server.send(request).await.status, StatusCode::OK, "{name}: {value}");
    }
}
