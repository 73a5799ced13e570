//! A server in a directory of its own, and the words in which the tests speak to it.

use aetherium_model::resources::DriverKind;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The program under test.
pub(crate) const AETHERIUM: &str = env!("CARGO_BIN_EXE_aetherium");
/// A boot under software emulation on two busy cores.
pub(crate) const BOOT: Duration = Duration::from_secs(120);
/// Anything that boots nothing.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// What `make test` has made.
pub(crate) fn assets() -> PathBuf {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-assets");
    let manifest = assets.join("data/templates/default/template.json");
    assert!(manifest.exists(), "{} is missing: run `make assets` first", manifest.display());
    assets.canonicalize().unwrap()
}

/// A data directory with the test template in it, and nothing else.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self { dir: tempfile::Builder::new().prefix("ae").tempdir().unwrap() };
        place.template("default", |_| {});
        place
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Adds a template like the test template, but for what `change` does to its manifest.
    pub(crate) fn template(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let source = assets().join("data/templates/default");
        let target = self.path().join("templates").join(name);
        fs::create_dir_all(&target).unwrap();
        for file in fs::read_dir(&source).unwrap() {
            let file = file.unwrap();
            if file.file_name() != "template.json" {
                symlink(file.path(), target.join(file.file_name())).unwrap();
            }
        }
        let text = fs::read(source.join("template.json")).unwrap();
        let mut manifest: Value = serde_json::from_slice(&text).unwrap();
        manifest["name"] = json!(name);
        change(&mut manifest);
        fs::write(target.join("template.json"), manifest.to_string()).unwrap();
    }

    /// Adds a template with an initramfs of its own.
    pub(crate) fn template_with_initramfs(&self, name: &str, initramfs: &[u8]) {
        self.template(name, |manifest| manifest["initramfs"]["size"] = json!(initramfs.len()));
        let file = self.path().join("templates").join(name).join("initramfs.cpio");
        fs::remove_file(&file).unwrap();
        fs::write(file, initramfs).unwrap();
    }

    /// The program, told to use this directory.
    pub(crate) fn aetherium(&self) -> Command {
        let mut command = Command::new(AETHERIUM);
        command
            .arg("--data-dir")
            .arg(self.path())
            .env("AETHERIUM_AGENT", assets().join("fc-agent"))
            .env("AETHERIUM_VSOCK_HELPER", assets().join("tools/bin/vhost-device-vsock"))
            .env_remove("AETHERIUM_DATA_DIR")
            .env_remove("AETHERIUM_URL")
            .env_remove("AETHERIUM_API_KEY");
        command
    }

    /// Processes that belong to VMs of this directory.
    pub(crate) fn processes(&self) -> Vec<String> {
        let strays = aetherium_vmm::strays(&self.path().join("vms")).unwrap();
        let all = strays.iter().flat_map(|it| it.processes.iter().map(move |p| (it.vm_id, p)));
        all.map(|(vm, process)| format!("{vm}: {} {}", process.role, process.pid)).collect()
    }

    /// Fails if a process, a socket, a disk or a journal of a VM is left, or the server's socket.
    pub(crate) fn assert_no_vm_is_left(&self) {
        self.assert_no_vm_is_left_but_the_server();
        assert!(!self.path().join("worker.sock").exists(), "the worker's socket is left");
    }

    /// The same while the server runs.
    pub(crate) fn assert_no_vm_is_left_but_the_server(&self) {
        assert_eq!(self.processes(), Vec::<String>::new(), "processes are left");
        let Ok(vms) = fs::read_dir(self.path().join("vms")) else { return };
        for vm in vms {
            let files = fs::read_dir(vm.unwrap().path()).unwrap();
            for file in files {
                let name = file.unwrap().file_name().into_string().unwrap();
                assert!(["console.log", "vmm.log"].contains(&name.as_str()), "{name} is left");
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A test that failed half way must not leave VMs on the machine.
        let of = |dir: &str| aetherium_vmm::strays(&self.path().join(dir)).unwrap_or_default();
        for stray in of("vms").into_iter().chain(of("builds")) {
            for process in stray.processes {
                let pid = i32::try_from(process.pid).ok().and_then(rustix::process::Pid::from_raw);
                if let Some(pid) = pid {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
    }
}

/// A server that runs `aetherium up`.
pub(crate) struct Server<'a> {
    pub(crate) place: &'a Place,
    child: Child,
    url: String,
    key: String,
    http: reqwest::Client,
}

impl<'a> Server<'a> {
    pub(crate) async fn start(place: &'a Place, driver: DriverKind) -> Self {
        Self::start_with(place, driver, &[]).await
    }

    pub(crate) async fn start_with(place: &'a Place, driver: DriverKind, more: &[&str]) -> Self {
        let _ = fs::remove_file(place.path().join("server.json"));
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(place.path().join("log"))
            .unwrap();
        let child = place
            .aetherium()
            .args(["up", "--listen", "127.0.0.1:0", "--driver", driver.as_str()])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Self {
            place,
            child,
            url: String::new(),
            key: String::new(),
            http: reqwest::Client::new(),
        };
        server.await_start().await;
        server
    }

    async fn await_start(&mut self) {
        let deadline = Instant::now() + SOON;
        loop {
            if let Ok(text) = fs::read(self.place.path().join("server.json")) {
                let running: Value = serde_json::from_slice(&text).unwrap();
                self.url = running["url"].as_str().unwrap().to_owned();
                self.key = fs::read_to_string(self.place.path().join("api-key")).unwrap();
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the server ended: {ended:?}\n{}", self.log());
            assert!(Instant::now() < deadline, "the server does not start\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Ctrl-C, and the wait for its end; the server must say that it went well.
    pub(crate) async fn stop(mut self) {
        self.signal(rustix::process::Signal::INT);
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}\n{}", self.log());
                return;
            }
            assert!(Instant::now() < deadline, "the server does not stop\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// One request, with whatever came of it.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = self
            .http
            .request(method, format!("{}/api/v1{path}", self.url))
            .bearer_auth(&self.key)
            .timeout(BOOT);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, value) = self.call(Method::GET, path, None).await;
        assert!(status.is_success(), "GET {path}: {status} {value}\n{}", self.log());
        value
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        let (status, value) = self.call(Method::POST, path, Some(body)).await;
        assert!(status.is_success(), "POST {path}: {status} {value}\n{}", self.log());
        value
    }

    pub(crate) async fn delete(&self, path: &str) -> Value {
        let (status, value) = self.call(Method::DELETE, path, None).await;
        assert!(status.is_success(), "DELETE {path}: {status} {value}\n{}", self.log());
        value
    }

    /// Looks at `path` until `wanted` holds of it.
    pub(crate) async fn until(
        &self,
        path: &str,
        at_most: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = Instant::now() + at_most;
        loop {
            let value = self.get(path).await;
            if wanted(&value) {
                return value;
            }
            assert!(Instant::now() < deadline, "{path} stays at {value:#}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes a workspace and returns its path.
    pub(crate) async fn workspace(&self, name: &str) -> String {
        let made = self.post("/workspaces", json!({ "name": name, "ai_assistant": "shell" })).await;
        format!("/workspaces/{}", id(&made))
    }

    /// Sends a prompt and returns its path.
    pub(crate) async fn prompt(&self, workspace: &str, prompt: &str) -> String {
        let made = self.post(&format!("{workspace}/prompts"), json!({ "prompt": prompt })).await;
        format!("{workspace}/prompts/{}", id(&made))
    }

    /// Waits for a prompt's end, and returns it with its standard output.
    pub(crate) async fn ended(&self, prompt: &str) -> (Value, String) {
        let end = self.until(prompt, BOOT, |it| !["queued", "running"].contains(&state(it))).await;
        let output = self.get(&format!("{prompt}/output?stream=stdout")).await;
        (end, text(&output))
    }

    /// Sends a prompt, waits for its end, and returns its standard output.
    pub(crate) async fn answer(&self, workspace: &str, prompt: &str) -> String {
        let path = self.prompt(workspace, prompt).await;
        let (end, output) = self.ended(&path).await;
        assert_eq!(state(&end), "completed", "{end:#}\n{}", self.log());
        output
    }

    /// Starts a VM and waits until it runs.
    pub(crate) async fn vm(&self, body: Value) -> Value {
        let made = self.post("/vms", body).await;
        let path = format!("/vms/{}", id(&made));
        self.until(&path, BOOT, |vm| {
            assert_ne!(state(vm), "failed", "{vm:#}");
            state(vm) == "running"
        })
        .await
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        // Already over where the test ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn id(value: &Value) -> &str {
    value["id"].as_str().unwrap_or_else(|| panic!("no id in {value:#}"))
}

pub(crate) fn state(value: &Value) -> &str {
    value["state"].as_str().unwrap_or_else(|| panic!("no state in {value:#}"))
}

/// Text that may have looked like JSON.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
