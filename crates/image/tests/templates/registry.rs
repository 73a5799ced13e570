//! A registry on loopback, as far as pulling and pushing go: manifests, blobs, ranges, uploads in
//! pieces, a password.

use crate::container::{Container, INDEX, MANIFEST, digest};
use axum::{
    Router,
    body::Body,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, patch, post},
};
use futures::{StreamExt as _, stream};
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use tokio::task::JoinHandle;

/// What it does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Breaks each first download of a blob off after so many bytes.
    BreakOffAt(usize),
    /// The same, and it knows no ranges.
    BreakOffWithoutRanges(usize),
    /// Gives other bytes than those of the digest.
    Lie,
    /// Sends more than it said.
    Endless,
    /// Sends a manifest without end, and does not say how long it is.
    EndlessManifest,
    /// Gives another manifest than the one of the digest.
    OtherManifest,
    /// Takes half of a piece of an upload and fails, so many times.
    BreakUploads(usize),
    /// Takes no piece of any upload.
    RefuseUploads,
}

#[derive(Default)]
struct Shelf {
    blobs: BTreeMap<String, Vec<u8>>,
    tags: BTreeMap<String, String>,
    fault: Option<Fault>,
    /// `user:password`, in base64.
    password: Option<&'static str>,
    /// The blobs that were asked for, each with the offset.
    asked: Vec<(String, usize)>,
    /// What has come of uploads that have begun.
    uploads: Vec<Vec<u8>>,
    /// The blobs that were sent.
    sent: Vec<String>,
}

pub(crate) struct Registry {
    host: String,
    shelf: Arc<Mutex<Shelf>>,
    server: JoinHandle<()>,
}

impl Registry {
    /// A registry with the image `test/image:v1`, behind an index.
    pub(crate) async fn with(mut image: Container) -> Self {
        let manifest = image.manifest();
        let platform = |architecture: &str, digest: &str| {
            json!({ "mediaType": MANIFEST, "digest": digest, "size": 1,
                    "platform": { "os": "linux", "architecture": architecture } })
        };
        let here = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let other = digest(b"not for this machine");
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX,
                            "manifests": [platform("s390x", &other), platform(here, &manifest)] });
        let index = image.blob(index.to_string().into_bytes());
        let tags = [("v1".to_owned(), index)].into();
        Self::serve(Shelf { blobs: image.blobs, tags, ..Shelf::default() }).await
    }

    /// A registry without any image.
    pub(crate) async fn empty() -> Self {
        Self::serve(Shelf::default()).await
    }

    async fn serve(shelf: Shelf) -> Self {
        let shelf = Arc::new(Mutex::new(shelf));
        let router = Router::new()
            .route("/v2/", get(async || StatusCode::OK))
            .route("/v2/test/image/manifests/{reference}", get(manifest).put(put_manifest))
            .route("/v2/test/image/blobs/{digest}", get(blob).head(has_blob))
            .route("/v2/test/image/blobs/uploads/", post(begin_upload))
            .route(
                "/v2/test/image/blobs/uploads/{upload}",
                patch(go_on).put(end_upload).get(upload_stands),
            )
            .fallback(async || StatusCode::NOT_FOUND)
            .layer(middleware::from_fn_with_state(Arc::clone(&shelf), admit))
            .with_state(Arc::clone(&shelf));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { host, shelf, server }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn image(&self) -> String {
        format!("{}/test/image:v1", self.host)
    }

    pub(crate) fn fail_with(&self, fault: Option<Fault>) {
        self.shelf.lock().unwrap().fault = fault;
    }

    pub(crate) fn ask_for(&self, password: &'static str) {
        self.shelf.lock().unwrap().password = Some(password);
    }

    /// The blobs sent since this was last called.
    pub(crate) fn sent(&self) -> Vec<String> {
        std::mem::take(&mut self.shelf.lock().unwrap().sent)
    }

    /// Changes a blob that is there.
    pub(crate) fn tamper(&self, digest: &str, change: impl FnOnce(&mut Vec<u8>)) {
        change(self.shelf.lock().unwrap().blobs.get_mut(digest).unwrap());
    }

    /// The blobs asked for since this was last called, each with the offset.
    pub(crate) fn asked(&self) -> Vec<(String, usize)> {
        std::mem::take(&mut self.shelf.lock().unwrap().asked)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn admit(State(shelf): State<Arc<Mutex<Shelf>>>, request: Request, next: Next) -> Response {
    let password = shelf.lock().unwrap().password;
    let given = request.headers().get(header::AUTHORIZATION).and_then(|it| it.to_str().ok());
    if let Some(password) = password
        && given != Some(&format!("Basic {password}"))
    {
        let ask = [(header::WWW_AUTHENTICATE, "Basic realm=\"test\"")];
        return (StatusCode::UNAUTHORIZED, ask).into_response();
    }
    next.run(request).await
}

async fn manifest(
    State(shelf): State<Arc<Mutex<Shelf>>>,
    Path(reference): Path<String>,
) -> Response {
    let shelf = shelf.lock().unwrap();
    let digest = shelf.tags.get(&reference).unwrap_or(&reference);
    let Some(bytes) = shelf.blobs.get(digest) else {
        let errors = json!({ "errors": [{ "code": "MANIFEST_UNKNOWN", "message": "unknown" }] });
        return (StatusCode::NOT_FOUND, errors.to_string()).into_response();
    };
    let document: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    let kind = if document["mediaType"] == INDEX { INDEX } else { MANIFEST };
    match shelf.fault {
        Some(Fault::EndlessManifest) => {
            let blanks = stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 65536]));
            return ([(header::CONTENT_TYPE, kind)], Body::from_stream(blanks)).into_response();
        }
        Some(Fault::OtherManifest) if kind == MANIFEST => {
            let mut bytes = bytes.clone();
            bytes.push(b' ');
            return ([(header::CONTENT_TYPE, kind)], bytes).into_response();
        }
        _ => {}
    }
    let headers = [(header::CONTENT_TYPE.as_str(), kind), ("docker-content-digest", digest)];
    (headers, bytes.clone()).into_response()
}

async fn blob(
    State(shelf): State<Arc<Mutex<Shelf>>>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Response {
    let mut shelf = shelf.lock().unwrap();
    let first = !shelf.asked.iter().any(|(asked, _)| *asked == digest);
    let fault = shelf.fault;
    let range = headers.get(header::RANGE).and_then(|it| it.to_str().ok());
    let offset = range
        .and_then(|it| it.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .unwrap_or(0);
    shelf.asked.push((digest.clone(), offset));
    let Some(mut bytes) = shelf.blobs.get(&digest).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    // The configuration comes unharmed: what is tested is what happens to layers.
    let small = bytes.len() < 4096;
    match fault.filter(|_| !small) {
        Some(Fault::BreakOffAt(at)) if first => return broken_off(bytes[offset..].to_vec(), at),
        Some(Fault::BreakOffWithoutRanges(at)) => {
            return if first { broken_off(bytes, at) } else { bytes.into_response() };
        }
        Some(Fault::Lie) => bytes.iter_mut().for_each(|byte| *byte ^= 1),
        Some(Fault::Endless) => bytes.extend_from_slice(&[0; 100_000]),
        Some(
            Fault::BreakOffAt(_)
            | Fault::EndlessManifest
            | Fault::OtherManifest
            | Fault::BreakUploads(_)
            | Fault::RefuseUploads,
        )
        | None => {}
    }
    if offset == 0 {
        return bytes.into_response();
    }
    let range = format!("bytes {offset}-{}/{}", bytes.len() - 1, bytes.len());
    let headers = [(header::CONTENT_RANGE, range)];
    (StatusCode::PARTIAL_CONTENT, headers, bytes[offset..].to_vec()).into_response()
}

async fn has_blob(
    State(shelf): State<Arc<Mutex<Shelf>>>,
    Path(digest): Path<String>,
) -> StatusCode {
    let there = shelf.lock().unwrap().blobs.contains_key(&digest);
    if there { StatusCode::OK } else { StatusCode::NOT_FOUND }
}

fn at(upload: usize) -> [(header::HeaderName, String); 1] {
    [(header::LOCATION, format!("/v2/test/image/blobs/uploads/{upload}"))]
}

async fn begin_upload(State(shelf): State<Arc<Mutex<Shelf>>>) -> Response {
    let mut shelf = shelf.lock().unwrap();
    shelf.uploads.push(Vec::new());
    (StatusCode::ACCEPTED, at(shelf.uploads.len() - 1)).into_response()
}

async fn go_on(
    State(shelf): State<Arc<Mutex<Shelf>>>,
    Path(upload): Path<usize>,
    headers: HeaderMap,
    bytes: axum::body::Bytes,
) -> Response {
    let mut shelf = shelf.lock().unwrap();
    let range = headers[header::CONTENT_RANGE].to_str().unwrap().to_owned();
    let had = shelf.uploads[upload].len();
    assert_eq!(range, format!("{had}-{}", had + bytes.len() - 1), "a piece in its place");
    if shelf.fault == Some(Fault::RefuseUploads) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if let Some(Fault::BreakUploads(left @ 1..)) = shelf.fault {
        shelf.fault = Some(Fault::BreakUploads(left - 1));
        shelf.uploads[upload].extend_from_slice(&bytes[..bytes.len() / 2]);
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    shelf.uploads[upload].extend_from_slice(&bytes);
    let range = [(header::RANGE, format!("0-{}", had + bytes.len() - 1))];
    (StatusCode::ACCEPTED, at(upload), range).into_response()
}

async fn upload_stands(
    State(shelf): State<Arc<Mutex<Shelf>>>,
    Path(upload): Path<usize>,
) -> Response {
    let had = shelf.lock().unwrap().uploads[upload].len();
    let range = [(header::RANGE, format!("0-{}", had.saturating_sub(1)))];
    (StatusCode::NO_CONTENT, at(upload), range).into_response()
}

async fn end_upload(
    State(shelf): State<Arc<Mutex<Shelf>>>,
    Path(upload): Path<usize>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let mut shelf = shelf.lock().unwrap();
    let bytes = std::mem::take(&mut shelf.uploads[upload]);
    let named = query["digest"].clone();
    if digest(&bytes) != named {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let place = [(header::LOCATION, format!("/v2/test/image/blobs/{named}"))];
    shelf.sent.push(named.clone());
    shelf.blobs.insert(named, bytes);
    (StatusCode::CREATED, place).into_response()
}

/// A manifest is taken only when all it names is there.
async fn put_manifest(
    State(shelf): State<Arc<Mutex<Shelf>>>,
    Path(reference): Path<String>,
    bytes: axum::body::Bytes,
) -> Response {
    let mut shelf = shelf.lock().unwrap();
    let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let layers = document["layers"].as_array().unwrap().iter();
    for named in layers.chain([&document["config"]]) {
        if !shelf.blobs.contains_key(named["digest"].as_str().unwrap()) {
            return StatusCode::BAD_REQUEST.into_response();
        }
    }
    let named = digest(&bytes);
    let place = [(header::LOCATION, format!("/v2/test/image/manifests/{named}"))];
    shelf.blobs.insert(named.clone(), bytes.to_vec());
    shelf.tags.insert(reference, named);
    (StatusCode::CREATED, place).into_response()
}

/// The beginning of an answer, and then the end of the connection.
fn broken_off(bytes: Vec<u8>, at: usize) -> Response {
    let length = [(header::CONTENT_LENGTH, bytes.len().to_string())];
    let begun = stream::once(async move { Ok(bytes[..at].to_vec()) });
    let end = stream::once(async {
        // What has begun is sent while this waits; an end at once would take it back.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("the connection ends here"))
    });
    (length, Body::from_stream(begun.chain(end))).into_response()
}
