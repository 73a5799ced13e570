//! The guest: an agent as a child process, which ends with this process however that ends.

use crate::{cable::Cable, console::Console};
use aetherium_agent_proto::{Token, config::GuestConfig};
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    process::{Pid, Signal, kill_process, set_parent_process_death_signal},
    thread::{UnshareFlags, unshare_unsafe},
};
use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::UnixStream,
    process::{Child, ChildStdout, Command},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

/// How long the agent may take to listen.
const DEADLINE: Duration = Duration::from_secs(10);
/// Where the agent listens over TCP.
const TCP: &str = "tcp:0.0.0.0:9999";

/// What a guest is made of.
pub(crate) struct Parts {
    /// The agent's program.
    pub(crate) agent: PathBuf,
    /// The VM's own directory, where files are for a moment.
    pub(crate) dir: PathBuf,
    /// What the host told the guest, if it did.
    pub(crate) config: Option<GuestConfig>,
    /// The host's TAP and the guest's hardware address.
    pub(crate) tap: Option<(File, Option<[u8; 6]>)>,
}

/// A guest with its agent up.
#[derive(Debug)]
pub(crate) struct Guest {
    pid: Pid,
    /// The agent's socket, by its inode: its name is gone as soon as it is known.
    socket: OwnedFd,
    /// Whether the agent listens on vsock.
    vsock: bool,
    runs: watch::Sender<bool>,
    cable: Option<JoinHandle<io::Result<()>>>,
}

impl Guest {
    /// Starts the agent. The second value resolves when it has ended.
    pub(crate) async fn boot(
        parts: Parts,
        console: &Arc<Console>,
    ) -> io::Result<(Self, impl Future<Output = ()> + use<>)> {
        let own = rustix::process::getpid();
        let token = parts.dir.join(format!(".token-{own}"));
        let socket = parts.dir.join(format!(".agent-{own}"));
        let outcome = Self::boot_with(parts, &socket, &token, console).await;
        for file in [socket, token] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        outcome
    }

    async fn boot_with(
        parts: Parts,
        socket: &Path,
        token: &Path,
        console: &Arc<Console>,
    ) -> io::Result<(Self, impl Future<Output = ()> + use<>)> {
        let config = parts.config.unwrap_or_default();
        let mut args: Vec<OsString> = vec!["--listen".into(), in_words("unix:", socket)];
        let tcp = match (&config.token, &config.net, parts.tap) {
            (Some(secret), Some(net), Some((tap, mac))) if config.transports.tcp => {
                write_token(token, secret)?;
                args.extend(["--listen".into(), TCP.into(), "--token-file".into(), token.into()]);
                Some((net.clone(), tap, mac))
            }
            _ => None,
        };
        let (runs, watching) = watch::channel(true);
        let (mut child, cable) = match tcp {
            None => (spawn(&parts.agent, &args)?, None),
            Some((net, tap, mac)) => {
                let (cable, child) = Cable::lay(|| spawn(&parts.agent, &args))?;
                cable.configure(&net, mac).await?;
                (child, Some(tokio::spawn(cable.carry(tap, watching))))
            }
        };
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pid = pid.ok_or_else(|| io::Error::other("the agent has ended"))?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        let mut lines = BufReader::new(stdout).lines();
        let listeners = 1 + usize::from(cable.is_some());
        timeout(DEADLINE, listening(&mut lines, listeners)).await.map_err(io::Error::other)??;
        let socket = openat(CWD, socket, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let ended = follow(child, lines, console.clone());
        Ok((Self { pid, socket, vsock: config.transports.vsock, runs, cable }, ended))
    }

    /// Opens a connection to the agent's vsock port, as soon as the guest runs.
    pub(crate) async fn connect(&self) -> io::Result<UnixStream> {
        let mut runs = self.runs.subscribe();
        runs.wait_for(|runs| *runs).await.map_err(io::Error::other)?;
        if !self.vsock {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        UnixStream::connect(format!("/proc/self/fd/{}", self.socket.as_raw_fd())).await
    }

    /// Stops every process of the guest.
    pub(crate) fn pause(&self) {
        self.runs.send_replace(false);
        self.signal_all(Signal::STOP);
    }

    /// Lets every process of the guest run again.
    pub(crate) fn resume(&self) {
        self.signal_all(Signal::CONT);
        self.runs.send_replace(true);
    }

    /// What a guest's init hears when three keys are pressed.
    pub(crate) fn press_ctrl_alt_del(&self) {
        // An agent that has ended needs no keys.
        let _ = kill_process(self.pid, Signal::INT);
    }

    fn signal_all(&self, signal: Signal) {
        for pid in descendants(self.pid) {
            // A process that has ended meanwhile is stopped for good.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(cable) = &self.cable {
            cable.abort();
        }
    }
}

fn in_words(prefix: &str, path: &Path) -> OsString {
    let mut word = OsString::from(prefix);
    word.push(path);
    word
}

fn write_token(path: &Path, token: &Token) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(token.expose().as_bytes())
}

fn spawn(agent: &Path, args: &[OsString]) -> io::Result<Child> {
    // As root the guest gets process numbers of its own, so that whatever runs in it dies with its
    // agent. From here on this process can start no threads, which is why it has but one. Others do
    // without.
    // SAFETY: only the numbers of children to come change.
    let _ = unsafe { unshare_unsafe(UnshareFlags::NEWPID) };
    let mut command = Command::new(agent);
    command
        .args(args)
        .current_dir("/")
        .env_clear()
        .envs(["PATH", "HOME"].iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    // SAFETY: prctl(2) is a plain system call, and nothing here allocates.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    command.spawn()
}

/// Waits until the agent says that it listens, so many times.
async fn listening(lines: &mut Lines<BufReader<ChildStdout>>, times: usize) -> io::Result<()> {
    let mut seen = 0;
    while seen < times {
        let line = lines.next_line().await?;
        let line = line.ok_or_else(|| io::Error::other("the agent ended before it listened"))?;
        seen += usize::from(line.starts_with("listening "));
    }
    Ok(())
}

/// Shows what the agent prints until it has ended.
async fn follow(mut child: Child, mut lines: Lines<BufReader<ChildStdout>>, console: Arc<Console>) {
    while let Ok(Some(line)) = lines.next_line().await {
        console.write(&format!("{line}\n"));
    }
    // Whatever its status: the guest is over.
    let _ = child.wait().await;
}

/// A process and all below it.
fn descendants(pid: Pid) -> Vec<Pid> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            // A thread or process that ends meanwhile has no children to tell of.
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(
                children.split_whitespace().filter_map(|it| Pid::from_raw(it.parse().ok()?)),
            );
        }
    }
    found
}
