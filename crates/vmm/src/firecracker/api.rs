//! Firecracker's API: one request per connection to its Unix socket, each with a deadline.
//!
//! Owns the wire alone: what is asked, in which order, is for the plan and for the machine to say.
//! Protocol: HTTP/1.1 with JSON bodies, see `src/firecracker/swagger/firecracker.yaml` in
//! Firecracker's sources. A refusal is an object with `fault_message`.

use super::plan::{self, ApiCall};
use crate::VmmError;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};

/// How long Firecracker may take over a call that only configures something. It answers within
/// a millisecond; what is longer is a host that has no time for it, or a process that hangs.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes: the full configuration of a VM has some 4 KiB.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// How often the socket is looked for: Firecracker has no way to say that it listens.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The API of one Firecracker.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    socket: PathBuf,
}

impl Api {
    pub(crate) const fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Resolves once Firecracker listens; the caller brings the deadline.
    pub(crate) async fn listening(&self) {
        while UnixStream::connect(&self.socket).await.is_err() {
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Makes a call of a plan.
    pub(super) async fn plan_call(&self, call: &ApiCall) -> Result<(), VmmError> {
        let body = call.body().map_err(|error| VmmError::BadValue {
            value: format!("{call:?}: {error}"),
            why: "it is no JSON",
        })?;
        let method = match call.method() {
            plan::Method::Put => Method::PUT,
        };
        self.tell(method, &call.path(), &body, CALL_DEADLINE).await
    }

    /// Sets something.
    pub(crate) async fn put(
        &self,
        path: &str,
        body: &Value,
        deadline: Duration,
    ) -> Result<(), VmmError> {
        self.tell(Method::PUT, path, body, deadline).await
    }

    /// Changes something.
    pub(crate) async fn patch(
        &self,
        path: &str,
        body: &Value,
        deadline: Duration,
    ) -> Result<(), VmmError> {
        self.tell(Method::PATCH, path, body, deadline).await
    }

    /// Has something done. Firecracker says nothing to what it has done; any words under a status of
    /// success are not its own, and then nobody knows what was done.
    async fn tell(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        deadline: Duration,
    ) -> Result<(), VmmError> {
        let command = format!("{method} {path}");
        let answer = self.call(method, path, Some(body.to_string().into()), deadline).await?;
        if answer.is_empty() {
            return Ok(());
        }
        Err(VmmError::Control { command, answer: excerpt(&answer) })
    }

    /// Reads something.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, VmmError> {
        let answer = self.call(Method::GET, path, None, CALL_DEADLINE).await?;
        serde_json::from_slice(&answer).map_err(|_| VmmError::Control {
            command: format!("GET {path}"),
            answer: excerpt(&answer),
        })
    }

    /// One request and its answer.
    ///
    /// # Errors
    /// [`VmmError::Refused`] with Firecracker's own words; [`VmmError::Unanswered`] when the deadline
    /// passes.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        deadline: Duration,
    ) -> Result<Bytes, VmmError> {
        let call = format!("{method} {path}");
        let exchange = exchange(&self.socket, request(method, path, body));
        let (status, answer) = timeout(deadline, exchange)
            .await
            .map_err(|_| VmmError::Unanswered { call: call.clone(), waited: deadline })?
            .map_err(VmmError::io("talk to Firecracker at", &self.socket))?;
        if status.is_success() {
            return Ok(answer);
        }
        let said = serde_json::from_slice::<Refusal>(&answer).map(|it| it.fault_message);
        Err(VmmError::Refused {
            call,
            status: status.as_u16(),
            said: said.unwrap_or_else(|_| excerpt(&answer)),
        })
    }
}

/// What Firecracker answers when it refuses.
#[derive(Deserialize)]
struct Refusal {
    fault_message: String,
}

fn request(method: Method, path: &str, body: Option<Bytes>) -> Request<Full<Bytes>> {
    let is_json = body.is_some();
    let mut request = Request::new(Full::new(body.unwrap_or_default()));
    *request.method_mut() = method;
    // Paths are ours or made of names that the plan has checked; one that is no path asks for `/`,
    // which changes nothing.
    *request.uri_mut() = path.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(http::header::HOST, http::HeaderValue::from_static("localhost"));
    if is_json {
        let json = http::HeaderValue::from_static("application/json");
        headers.insert(http::header::CONTENT_TYPE, json);
    }
    request
}

async fn exchange(socket: &Path, request: Request<Full<Bytes>>) -> io::Result<(StatusCode, Bytes)> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let asked = async {
        let (head, body) =
            sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
        let body =
            Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(io::Error::other)?;
        Ok((head.status, body.to_bytes()))
    };
    // The connection does the reading and writing. Should it end first, `asked` is told.
    let driven = async {
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        answer = asked => answer,
        never = driven => never,
    }
}

fn excerpt(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixListener,
        task::JoinHandle,
    };

    const SOON: Duration = Duration::from_secs(5);

    /// A Firecracker that answers one request with these bytes and returns what it was asked; with
    /// none it never answers.
    fn answering(socket: &Path, answer: Option<&'static str>) -> JoinHandle<String> {
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let read = stream.read(&mut asked).await.unwrap();
            asked.truncate(read);
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                None => std::future::pending().await,
            }
            String::from_utf8(asked).unwrap()
        })
    }

    fn api(dir: &tempfile::TempDir) -> Api {
        Api::new(dir.path().join("api.sock"))
    }

    #[tokio::test]
    async fn a_call_carries_its_body_and_takes_an_empty_answer() {
        let dir = tempfile::tempdir().unwrap();
        let api = api(&dir);
        let peer = answering(&api.socket, Some("HTTP/1.1 204 \r\nConnection: keep-alive\r\n\r\n"));
        api.patch("/vm", &json!({ "state": "Paused" }), SOON).await.unwrap();
        let asked = peer.await.unwrap();
        assert!(asked.starts_with("PATCH /vm HTTP/1.1\r\n"), "{asked}");
        assert!(asked.ends_with(r#"{"state":"Paused"}"#), "{asked}");
        assert!(asked.contains("content-type: application/json"), "{asked}");
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_firecrackers_own_words() {
        let dir = tempfile::tempdir().unwrap();
        let api = api(&dir);
        let answer =
            "HTTP/1.1 400 \r\nContent-Length: 35\r\n\r\n{\"fault_message\":\"no such machine\"}";
        let _peer = answering(&api.socket, Some(answer));
        let error = api.put("/actions", &json!({}), SOON).await.unwrap_err();
        match error {
            VmmError::Refused { call, status, said } => {
                assert_eq!(
                    (call.as_str(), status, said.as_str()),
                    ("PUT /actions", 400, "no such machine")
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn words_that_are_no_answer_to_a_change_are_not_taken_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let api = api(&dir);
        let _peer = answering(&api.socket, Some("HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n}{"));
        let error = api.put("/vsock", &json!({}), SOON).await.unwrap_err();
        assert!(matches!(error, VmmError::Control { .. }), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_firecracker_that_hangs_costs_no_more_than_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let api = api(&dir);
        let _peer = answering(&api.socket, None);
        let error = api.put("/actions", &json!({}), SOON).await.unwrap_err();
        assert!(matches!(error, VmmError::Unanswered { waited: SOON, .. }), "{error:?}");
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_an_error_and_not_a_wait() {
        let dir = tempfile::tempdir().unwrap();
        let api = api(&dir);
        let _peer = answering(&api.socket, Some("HTTP/1.1 200 \r\nContent-Length: 500\r\n\r\n{"));
        let error = api.get::<Value>("/vm/config").await.unwrap_err();
        assert!(matches!(error, VmmError::Io { .. }), "{error:?}");
    }
}
