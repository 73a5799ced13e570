//! The guest: an agent as a child process, which ends with this process however that ends.

use crate::console::Console;
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    process::{Pid, Signal, kill_process, set_parent_process_death_signal},
    thread::{UnshareFlags, unshare_unsafe},
};
use std::{
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::UnixStream,
    process::{Child, ChildStdout, Command},
    sync::watch,
    time::timeout,
};

/// How long the agent may take to listen.
const DEADLINE: Duration = Duration::from_secs(10);

/// A guest with its agent up.
#[derive(Debug)]
pub(crate) struct Guest {
    pid: Pid,
    /// The agent's socket, by its inode: its name is gone as soon as it is known.
    socket: OwnedFd,
    runs: watch::Sender<bool>,
}

impl Guest {
    /// Starts the agent. The second value resolves when it has ended.
    pub(crate) async fn boot(
        agent: &Path,
        console: &Arc<Console>,
    ) -> io::Result<(Self, impl Future<Output = ()> + use<>)> {
        let dir = tempfile::Builder::new().prefix("fake-fc").tempdir()?;
        let path = dir.path().join("agent");
        let mut child = spawn(agent, &path)?;
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pid = pid.ok_or_else(|| io::Error::other("the agent has ended"))?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        let mut lines = BufReader::new(stdout).lines();
        timeout(DEADLINE, listening(&mut lines)).await.map_err(io::Error::other)??;
        let socket = openat(CWD, &path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        fs::remove_file(&path)?;
        let ended = follow(child, lines, console.clone());
        Ok((Self { pid, socket, runs: watch::Sender::new(true) }, ended))
    }

    /// Opens a connection to the agent, as soon as the guest runs.
    pub(crate) async fn connect(&self) -> io::Result<UnixStream> {
        let mut runs = self.runs.subscribe();
        runs.wait_for(|runs| *runs).await.map_err(io::Error::other)?;
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

fn spawn(agent: &Path, socket: &Path) -> io::Result<Child> {
    // As root the guest gets process numbers of its own, so that whatever runs in it dies with its
    // agent. From here on this process can start no threads, which is why it has but one. Others do
    // without.
    // SAFETY: only the numbers of children to come change.
    let _ = unsafe { unshare_unsafe(UnshareFlags::NEWPID) };
    let mut command = Command::new(agent);
    command
        .arg("--listen")
        .arg(format!("unix:{}", socket.display()))
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

async fn listening(lines: &mut Lines<BufReader<ChildStdout>>) -> io::Result<()> {
    while let Some(line) = lines.next_line().await? {
        if line.starts_with("listening ") {
            return Ok(());
        }
    }
    Err(io::Error::other("the agent ended before it listened"))
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
