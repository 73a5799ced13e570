//! A server in a directory of its own, and the words in which the tests speak to it.

use aetherium_image::{InstalledTemplate, TemplateStore};
use aetherium_model::{Name, resources::DriverKind, template::Template};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
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
    let templates = assets.join("data/templates");
    assert!(templates.exists(), "{} is missing: run `make assets` first", templates.display());
    assets.canonicalize().unwrap()
}

/// The template that `make test` has made.
pub(crate) fn test_template() -> InstalledTemplate {
    let store = TemplateStore::open(assets().join("data/templates")).unwrap();
    store.get(&"default".parse::<Name>().unwrap()).unwrap()
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

    /// This directory's templates.
    pub(crate) fn templates(&self) -> TemplateStore {
        TemplateStore::open(self.path().join("templates")).unwrap()
    }

    /// Adds a template like the test template, but for what `change` does to its manifest.
    pub(crate) fn template(&self, name: &str, change: impl FnOnce(&mut Value)) {
        self.template_like(&test_template(), name, change);
    }

    /// Adds a template like another one.
    pub(crate) fn template_like(
        &self,
        source: &InstalledTemplate,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) {
        let store = self.templates();
        for file in source.manifest.files() {
            let place = store.dir().join("blobs").join(&file.sha256);
            if !place.exists() {
                symlink(source.path_of(file), place).unwrap();
            }
        }
        let changed = |template: &mut Template| {
            let mut manifest = serde_json::to_value(&*template).unwrap();
            change(&mut manifest);
            *template = serde_json::from_value(manifest).unwrap();
        };
        store.derive(source, &name.parse().unwrap(), changed).unwrap();
    }

    /// Adds a file that a template's manifest may name by this digest.
    pub(crate) fn blob(&self, content: &[u8]) -> String {
        let sha256: String =
            Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(self.templates().dir().join("blobs").join(&sha256), content).unwrap();
        sha256
    }

    /// Adds a template with an initramfs of its own.
    pub(crate) fn template_with_initramfs(&self, name: &str, initramfs: &[u8]) {
        let sha256 = self.blob(initramfs);
        self.template(name, |manifest| {
            manifest["initramfs"]["size"] = json!(initramfs.len());
            manifest["initramfs"]["sha256"] = json!(sha256);
        });
    }

    /// The program, told to use this directory.
    pub(crate) fn aetherium(&self) -> Command {
        let mut command = Command::new(AETHERIUM);
        command
            .arg("--data-dir")
            .arg(self.path())
            .env("AETHERIUM_AGENT", assets().join("fc-agent"))
            .env("AETHERIUM_VSOCK_HELPER", assets().join("tools/bin/vhost-device-vsock"))
            .env("AETHERIUM_OPERATIONS_LISTEN", "127.0.0.1:0")
            .env("AETHERIUM_DEV", "true")
            .env_remove("AETHERIUM_SECRETS_KEYS_FILE")
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

    /// The ids of the same processes, and of those of a build's VMs.
    pub(crate) fn pids(&self) -> impl Iterator<Item = rustix::process::Pid> {
        let builds = fs::read_dir(self.path().join("builds")).into_iter().flatten().flatten();
        let places = builds.map(|it| it.path()).chain([self.path().join("vms")]);
        let strays = places.flat_map(|it| aetherium_vmm::strays(&it).unwrap_or_default());
        let all = strays.flat_map(|stray| stray.processes);
        all.filter_map(|it| rustix::process::Pid::from_raw(it.pid.try_into().ok()?))
    }

    /// Fails if a process, a socket, a disk or a journal of a VM is left, or the server's socket.
    pub(crate) fn assert_no_vm_is_left(&self) {
        self.assert_no_vm_is_left_but_the_server();
        assert_eq!(self.slots(), Vec::<String>::new(), "slots are left");
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

/// Where slots of the network have their names and claims, see `aetherium_net::SlotsConfig`.
const NAMESPACES: &str = "/run/netns";
const CLAIMS: &str = "/run/aetherium/slots";

impl Place {
    /// What there is of this place's slots: files that name their namespaces, and claims on addresses.
    pub(crate) fn slots(&self) -> Vec<String> {
        let slots = self.slot_files();
        slots.into_iter().map(|path| path.display().to_string()).collect()
    }

    fn slot_files(&self) -> Vec<PathBuf> {
        // No worker ever ran here, or none of its slots.
        let worker = fs::read_to_string(self.path().join("worker-id")).ok();
        let worker =
            worker.and_then(|id| Some(aetherium_net::Prefix::of_worker(id.trim().parse().ok()?)));
        let pools = worker.into_iter().map(|it| it.to_string()).chain(self.pools_of_builds());
        let own: Vec<String> = pools.map(|pool| format!("{pool}-")).collect();
        let list = |dir| fs::read_dir(dir).into_iter().flatten().flatten().map(|it| it.path());
        let is_own = |name: &Path| {
            own.iter().any(|own| name.as_os_str().as_encoded_bytes().starts_with(own.as_bytes()))
        };
        let named =
            list(NAMESPACES).filter(|it| it.file_name().is_some_and(|it| is_own(it.as_ref())));
        let claimed = list(CLAIMS).filter(|it| fs::read_link(it).is_ok_and(|to| is_own(&to)));
        named.chain(claimed).collect()
    }

    /// What the slots of builds' VMs that are there have their names of.
    pub(crate) fn pools_of_builds(&self) -> Vec<String> {
        let builds = fs::read_dir(self.path().join("builds")).into_iter().flatten().flatten();
        let vms = builds.filter_map(|it| fs::read_to_string(it.path().join("vm")).ok());
        vms.filter_map(|it| Some(aetherium_net::Prefix::of_vm(it.parse().ok()?).to_string()))
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A test that failed half way must not leave VMs on the machine.
        for pid in self.pids() {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        // Nor their slots. Of a link nothing is left once its namespace, or the test's own, has gone.
        for file in self.slot_files() {
            let _ = rustix::mount::unmount(&file, rustix::mount::UnmountFlags::DETACH);
            let _ = fs::remove_file(file);
        }
    }
}

/// An HTTP client.
pub(crate) fn http() -> reqwest::Client {
    aetherium_image::install_tls();
    reqwest::Client::new()
}

/// A server: `aetherium up`, or a role of a fleet.
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
        let up = ["up", "--listen", "127.0.0.1:0", "--driver", driver.as_str()];
        Self::start_role(place, &[&up, more].concat()).await
    }

    /// Starts what serves the API, with these arguments.
    pub(crate) async fn start_role(place: &'a Place, arguments: &[&str]) -> Self {
        let _ = fs::remove_file(place.path().join("server.json"));
        let mut server = Self::spawn(place, arguments);
        server.await_start().await;
        server
    }

    /// Starts the program with these arguments, and waits for nothing.
    pub(crate) fn spawn(place: &'a Place, arguments: &[&str]) -> Self {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(place.path().join("log"))
            .unwrap();
        let child = place
            .aetherium()
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { place, child, url: String::new(), key: String::new(), http: http() }
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

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// From now on each request has a connection of its own, and the server none that waits.
    pub(crate) fn without_idle_connections(mut self) -> Self {
        self.http = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
        self
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

    /// Sends its process a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
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
