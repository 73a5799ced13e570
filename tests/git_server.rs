//! A git server of the tests' own on loopback: git's `http-backend` behind a check of the token.

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, Response, StatusCode, header},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, net::TcpListener, sync::watch, task::JoinHandle};

/// The largest request that it takes.
const MAX_BODY: usize = 1 << 20;

/// A server with one repository, `demo.git`: two commits on `main`, a tag `v1` and a branch `side`.
pub(crate) struct GitServer {
    dir: TempDir,
    pub(crate) url: String,
    /// The first commit.
    pub(crate) first: String,
    state: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    root: PathBuf,
    token: Option<String>,
    /// Who asked, in order: the user and password of each request, or nothing.
    asked: Mutex<Vec<Option<String>>>,
    /// Whether who may read is answered.
    answers: watch::Sender<bool>,
}

impl GitServer {
    /// Serves to whoever has the token; to everybody where there is none.
    pub(crate) async fn start(token: Option<&str>) -> Self {
        let dir = tempfile::Builder::new().prefix("git").tempdir().unwrap();
        let first = make(dir.path());
        let state = Arc::new(Shared {
            root: dir.path().to_owned(),
            token: token.map(str::to_owned),
            asked: Mutex::default(),
            answers: watch::Sender::new(true),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/demo.git", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&state));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { dir, url, first, state, serving }
    }

    /// Who has asked so far.
    pub(crate) fn asked(&self) -> Vec<Option<String>> {
        self.state.asked.lock().unwrap().clone()
    }

    /// From now on who may read waits for the answer.
    pub(crate) fn hold(&self) {
        self.state.answers.send_replace(false);
    }

    /// Whoever waits is answered.
    pub(crate) fn let_go(&self) {
        self.state.answers.send_replace(true);
    }

    /// Adds a commit to `main` with this file.
    pub(crate) fn commit(&self, file: &str) {
        let work = self.dir.path().join("work");
        fs::write(work.join(file), file).unwrap();
        git(&work, &["add", "."]);
        git(&work, &["commit", "-qm", file]);
        git(&work, &["push", "-q", "../demo.git", "main"]);
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Makes the repository, and returns its first commit.
pub(crate) fn make(dir: &Path) -> String {
    let work = dir.join("work");
    fs::create_dir(&work).unwrap();
    git(&work, &["init", "-q", "-b", "main"]);
    fs::write(work.join("file"), "one\n").unwrap();
    git(&work, &["add", "."]);
    git(&work, &["commit", "-qm", "one"]);
    git(&work, &["tag", "v1"]);
    let first = git(&work, &["rev-parse", "HEAD"]);
    git(&work, &["branch", "side"]);
    fs::write(work.join("file"), "two\n").unwrap();
    git(&work, &["commit", "-qam", "two"]);
    git(dir, &["clone", "-q", "--bare", "work", "demo.git"]);
    first
}

/// git, as nobody in particular and without anybody's configuration.
pub(crate) fn git(dir: &Path, arguments: &[&str]) -> String {
    let who = ["-c", "user.name=T", "-c", "user.email=t@example.org"];
    let ran = Command::new("git")
        .args(who)
        .args(arguments)
        .current_dir(dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(ran.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap().trim().to_owned()
}

async fn answer(State(state): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let who = who(&parts.headers);
    state.asked.lock().unwrap().push(who.clone());
    let given = who.as_deref().and_then(|who| who.split_once(':')).map(|(_, password)| password);
    if state.token.as_deref().is_some_and(|token| given != Some(token)) {
        return Response::builder()
            .status(StatusCode::UNAUTHORIZED)
            .header(header::WWW_AUTHENTICATE, "Basic realm=\"git\"")
            .body(Body::empty())
            .unwrap();
    }
    // Its sender is in the state, which is held here.
    let _ = state.answers.subscribe().wait_for(|answers| *answers).await;
    let header = |name: &str| {
        parts.headers.get(name).map(|it| it.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    let mut backend = tokio::process::Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", &state.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", parts.uri.path())
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let body = to_bytes(body, MAX_BODY).await.unwrap();
    let mut stdin = backend.stdin.take().unwrap();
    let (written, ran) =
        tokio::join!(async move { stdin.write_all(&body).await }, backend.wait_with_output());
    // It may say no before it has read everything.
    let _ = written;
    of_cgi(&ran.unwrap().stdout)
}

/// The user and password of a request.
fn who(headers: &HeaderMap) -> Option<String> {
    let given = headers.get(header::AUTHORIZATION)?.to_str().unwrap();
    let given = STANDARD.decode(given.strip_prefix("Basic ")?).unwrap();
    Some(String::from_utf8(given).unwrap())
}

/// The response that a CGI program's output says, see RFC 3875.
fn of_cgi(output: &[u8]) -> Response<Body> {
    let end = output.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
    let mut response = Response::builder();
    for line in std::str::from_utf8(&output[..end]).unwrap().lines() {
        let (name, value) = line.split_once(": ").unwrap();
        response = match name {
            "Status" => response.status(value[..3].parse::<u16>().unwrap()),
            _ => response.header(name, value),
        };
    }
    response.body(Body::from(output[end + 4..].to_vec())).unwrap()
}
