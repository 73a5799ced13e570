//! Starts fakes, calls their API, and ends them with the test.

use aetherium_agent_client::{AgentClient, Deadlines, Endpoint};
use aetherium_agent_proto::config::GuestConfig;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    net::UnixStream,
    process::{Child, Command},
    time::timeout,
};

/// Ample for anything here on a busy machine; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for what must not come.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// A directory of one test's own, with what microVMs need.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self(tempfile::Builder::new().prefix("fake").tempdir().unwrap());
        fs::write(place.path("vmlinux"), b"\x7fELF and so on").unwrap();
        let mut bzimage = vec![0; 0x400];
        bzimage[0x202..0x206].copy_from_slice(b"HdrS");
        fs::write(place.path("bzImage"), bzimage).unwrap();
        fs::write(place.path("disk"), [0; 4096]).unwrap();
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The program under a name of its own, told `settings`.
    pub(crate) fn program(&self, name: &str, settings: Value) -> Command {
        let mut settings = settings;
        if settings.get("agent").is_none() {
            settings["agent"] = json!(agent());
        }
        let program = self.path(name);
        if !program.exists() {
            symlink(env!("CARGO_BIN_EXE_fake-firecracker"), &program).unwrap();
        }
        fs::write(self.path(&format!("{name}.json")), settings.to_string()).unwrap();
        let mut command = Command::new(program);
        command.current_dir(self.0.path()).env_clear().stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// A fake that listens.
    pub(crate) async fn fake(&self, name: &str, args: &[&str], settings: Value) -> Fake {
        self.fake_by(name, args, settings, |command| command.spawn().unwrap()).await
    }

    /// A fake that `spawn` starts, and that listens.
    pub(crate) async fn fake_by(
        &self,
        name: &str,
        args: &[&str],
        settings: Value,
        spawn: impl FnOnce(&mut Command) -> Child,
    ) -> Fake {
        let mut command = self.program(name, settings);
        self.run(name, args, &mut command, spawn).await
    }

    /// Whatever serves the API as Firecracker does.
    pub(crate) async fn run(
        &self,
        name: &str,
        args: &[&str],
        command: &mut Command,
        spawn: impl FnOnce(&mut Command) -> Child,
    ) -> Fake {
        let (socket, console) =
            (self.path(&format!("{name}.sock")), self.path(&format!("{name}.log")));
        command.arg("--api-sock").arg(&socket).args(["--id", name]).args(args);
        command.stdout(fs::File::create(&console).unwrap());
        let mut fake = Fake { process: spawn(command), socket, console };
        let listening = async {
            while UnixStream::connect(&fake.socket).await.is_err() {
                assert!(fake.process.try_wait().unwrap().is_none(), "it ended: {}", fake.console());
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, listening).await.expect("the fake does not listen");
        fake
    }

    /// A fake as it is most often wanted.
    pub(crate) async fn plain(&self) -> Fake {
        self.fake("fc", &[], json!({})).await
    }
}

/// The agent that is the guest.
fn agent() -> PathBuf {
    let provided = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-assets/fc-agent");
    let path = std::env::var_os("AETHERIUM_AGENT").map_or(provided, PathBuf::from);
    assert!(path.is_file(), "no agent at {}: run `make assets`", path.display());
    path
}

/// A running fake. Killed when dropped.
pub(crate) struct Fake {
    pub(crate) process: Child,
    socket: PathBuf,
    console: PathBuf,
}

impl Fake {
    /// A call and its answer: the status and the body, null where there is none.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let answered = self.try_call(method, path, body);
        timeout(PATIENCE, answered).await.expect("no answer").expect("no connection")
    }

    pub(crate) async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(u16, Value), hyper::Error> {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let text = body.map(|body| body.to_string()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "localhost")
            .body(Full::<bytes::Bytes>::from(text))
            .unwrap();
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        let body = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap_or(Value::String(text))
        };
        Ok((status, body))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(Method::GET, path, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub(crate) async fn put(&self, path: &str, body: Value) {
        let answer = self.call(Method::PUT, path, Some(body)).await;
        assert_eq!(answer, (204, Value::Null), "PUT {path}");
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) {
        let answer = self.call(Method::PATCH, path, Some(body)).await;
        assert_eq!(answer, (204, Value::Null), "PATCH {path}");
    }

    /// What is said of a call that is refused.
    pub(crate) async fn refused(&self, method: Method, path: &str, body: Value) -> String {
        let (status, answer) = self.call(method.clone(), path, Some(body)).await;
        assert_eq!(status, 400, "{method} {path}: {answer}");
        answer["fault_message"].as_str().expect("no fault_message").to_owned()
    }

    /// Configures a guest that is told `config` by its initramfs.
    pub(crate) async fn configure_told(&self, place: &Place, config: &GuestConfig) {
        self.configure(place, "quiet").await;
        let initrd = place.path("initrd");
        let json = serde_json::to_vec(config).unwrap();
        fs::write(&initrd, archive("aetherium/guest.json", &json)).unwrap();
        let boot = json!({
            "kernel_image_path": place.path("vmlinux"), "boot_args": "quiet", "initrd_path": initrd,
        });
        self.put("/boot-source", boot).await;
    }

    /// Configures a guest with a root and a vsock.
    pub(crate) async fn configure(&self, place: &Place, args: &str) {
        let kernel = place.path("vmlinux");
        self.put("/boot-source", json!({"kernel_image_path": kernel, "boot_args": args})).await;
        let disk = place.path("disk");
        let root = json!({
            "drive_id": "root", "is_root_device": true, "is_read_only": true, "path_on_host": disk,
        });
        self.put("/drives/root", root).await;
        let vsock = json!({"guest_cid": 3, "uds_path": self.vsock()});
        self.put("/vsock", vsock).await;
    }

    pub(crate) fn vsock(&self) -> PathBuf {
        self.socket.with_extension("vsock")
    }

    pub(crate) async fn start(&self) {
        self.put("/actions", json!({"action_type": "InstanceStart"})).await;
    }

    pub(crate) async fn set_state(&self, state: &str) {
        self.patch("/vm", json!({ "state": state })).await;
    }

    pub(crate) async fn state(&self) -> String {
        self.get("/").await["state"].as_str().unwrap().to_owned()
    }

    pub(crate) fn console(&self) -> String {
        fs::read_to_string(&self.console).unwrap()
    }

    /// The exit code, once it has ended; `None` for a signal.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let status = timeout(PATIENCE, self.process.wait()).await.expect("it does not end");
        status.unwrap().code()
    }
}

/// A cpio archive, as the kernel unpacks them, with one file.
fn archive(path: &str, content: &[u8]) -> Vec<u8> {
    let mut numbers = [0; 13];
    (numbers[6], numbers[11]) = (content.len(), path.len() + 1);
    let numbers: String = numbers.iter().map(|it| format!("{it:08x}")).collect();
    let mut bytes = format!("070701{numbers}{path}\0").into_bytes();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(content);
    bytes
}

/// The agent behind a vsock socket.
pub(crate) fn agent_at(uds: PathBuf) -> AgentClient {
    AgentClient::new(vec![Endpoint::Vsock { uds, port: 9999 }], Deadlines::default())
}
