//! Starts the built agent and ends it with the test.

use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aetherium_agent_client::{AgentClient, Deadlines, Endpoint, Output, Process, Token, collect};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// Long enough for a busy machine; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The agent as built.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_fc-agent");
pub(crate) const TOKEN: &str = "correct-horse-battery-staple";

/// A running agent. Killed, with its files, when dropped.
pub(crate) struct Agent {
    child: Child,
    dir: tempfile::TempDir,
    pub(crate) tcp: SocketAddr,
}

impl Agent {
    /// An agent on a Unix socket and on TCP loopback, once both listen.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// One that is started by another program, which is given the agent's command line.
    pub(crate) fn start_with(starter: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let token_file = dir.path().join("token");
        std::fs::write(&token_file, format!("{TOKEN}\n")).unwrap();
        // Another user must be able to come here.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let mut words = starter.iter().copied().chain([PROGRAM]);
        let mut child = Command::new(words.next().unwrap())
            .args(words)
            .arg("--listen")
            .arg(format!("unix:{}", dir.path().join("agent.sock").display()))
            .args(["--listen", "tcp:127.0.0.1:0", "--token-file"])
            .arg(&token_file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let tcp = loop {
            let line = lines.next().expect("the agent ended before it listened").unwrap();
            if let Some(address) = line.strip_prefix("listening tcp:") {
                break address.parse().unwrap();
            }
        };
        Self { child, dir, tcp }
    }

    /// An agent that takes its machine for its own, in namespaces where that is harmless: `/etc` and
    /// `/run` are empty and its own, `eth0` leads nowhere, host name and mounts are nobody else's.
    /// It listens on a Unix socket alone.
    pub(crate) fn start_as_machine() -> Self {
        const PREPARE: &str = "set -e; mount -t tmpfs tmpfs /etc; mount -t tmpfs tmpfs /run; \
            mkdir /run/small; mount -t tmpfs -o size=1m tmpfs /run/small; \
            ip link add eth0 type veth peer name peer0; ip link set peer0 up; exec \"$@\"";
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "--uts", "--net", "--"])
            .args(["sh", "-c", PREPARE, "sh", env!("CARGO_BIN_EXE_fc-agent"), "--machine"])
            .arg("--listen")
            .arg(format!("unix:{}", dir.path().join("agent.sock").display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().expect("the agent ended before it listened").unwrap();
        assert!(line.starts_with("listening unix:"), "{line}");
        Self { child, dir, tcp: ([0, 0, 0, 0], 0).into() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) fn unix(&self) -> AgentClient {
        client(vec![Endpoint::Unix { path: self.socket() }])
    }

    pub(crate) fn tcp_endpoint(&self, token: &str) -> Endpoint {
        Endpoint::Tcp { addr: self.tcp, token: Token::new(token).unwrap() }
    }

    /// Waits until the program has ended and returns its exit code.
    pub(crate) async fn wait(&mut self) -> i32 {
        eventually(|| self.child.try_wait().unwrap()).await.code().unwrap()
    }

    /// Kills the agent alone, as the kernel would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// The resident memory in KiB.
    pub(crate) fn rss_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// The most resident memory there ever was, in KiB.
    pub(crate) fn peak_rss_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    fn status_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn client(endpoints: Vec<Endpoint>) -> AgentClient {
    AgentClient::new(endpoints, Deadlines::default())
}

/// Runs a test's story within [`PATIENCE`].
pub(crate) fn story(story: impl Future<Output = ()>) {
    long_story(PATIENCE, story);
}

/// Runs a test's story that moves much, within a time of its own.
pub(crate) fn long_story(patience: Duration, story: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime
        .block_on(async { tokio::time::timeout(patience, story).await.expect("it took too long") });
}

/// Asks again until there is an answer.
pub(crate) async fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Follows a process to its end.
pub(crate) async fn finish(process: Process) -> Output {
    collect(process, 1 << 20).await.unwrap()
}

/// Whether a process exists and is not a zombie.
pub(crate) fn lives(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(") ").next().unwrap().starts_with('Z'),
        Err(_) => false,
    }
}

/// A way to an agent that can be cut.
pub(crate) struct Proxy {
    path: PathBuf,
    cut: tokio::sync::watch::Sender<bool>,
    passed: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// A way that lasts until [`Proxy::cut`].
    pub(crate) fn start(agent: &Agent) -> Self {
        Self::cut_after(agent, usize::MAX)
    }

    /// A way that passes so many bytes, both ways together, and is then cut.
    pub(crate) fn cut_after(agent: &Agent, bytes: usize) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = agent.dir().join(format!("proxy-{number}.sock"));
        let listener = UnixListener::bind(&path).unwrap();
        let (target, passed) = (agent.socket(), Arc::new(AtomicUsize::new(0)));
        let cut = tokio::sync::watch::Sender::new(false);
        let (count, mut is_cut) = (passed.clone(), cut.subscribe());
        let task = tokio::spawn(async move {
            let mut ways = tokio::task::JoinSet::new();
            let accepting = async {
                loop {
                    let (near, _) = listener.accept().await.unwrap();
                    let far = UnixStream::connect(&target).await.unwrap();
                    ways.spawn(pass(near, far, count.clone(), bytes));
                }
            };
            tokio::select! {
                () = accepting => {}
                _ = is_cut.wait_for(|cut| *cut) => {}
            }
        });
        Self { path, cut, passed, task }
    }

    pub(crate) fn client(&self) -> AgentClient {
        client(vec![Endpoint::Unix { path: self.path.clone() }])
    }

    /// Cuts every connection; new ones are refused.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// How many bytes have passed.
    pub(crate) fn passed(&self) -> usize {
        self.passed.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes bytes both ways until `limit` of them have.
async fn pass(mut near: UnixStream, mut far: UnixStream, passed: Arc<AtomicUsize>, limit: usize) {
    let (mut there, mut back) = ([0; 4096], [0; 4096]);
    loop {
        let left = limit - passed.load(Ordering::Relaxed);
        if left == 0 {
            return;
        }
        let (read, to, data) = tokio::select! {
            read = near.read(&mut there[..left.min(4096)]) => (read, &mut far, &there),
            read = far.read(&mut back[..left.min(4096)]) => (read, &mut near, &back),
        };
        let Ok(len @ 1..) = read else { return };
        passed.fetch_add(len, Ordering::Relaxed);
        if to.write_all(&data[..len]).await.is_err() {
            return;
        }
    }
}
