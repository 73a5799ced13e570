//! The agent's children: one table, one reaper.
//!
//! A single place waits for children, so that a status can never go to the wrong waiter. A child is
//! in the table exactly from its fork until it is reaped; its id cannot mean another process while
//! it is there, so signals are sent under the table's lock and nowhere else.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aetherium_agent_proto::ProcessInfo;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::spawn::{self, SpawnError, Spawned};
use crate::serve::Role;

/// The most processes at once.
const MAX_CHILDREN: usize = 512;

/// How a child ended, as the kernel tells it.
pub(crate) struct Exit {
    pub(crate) status: libc::c_int,
    pub(crate) usage: libc::rusage,
    pub(crate) at: Instant,
}

/// Why a signal was not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignalError {
    #[error("process {0} is not running; it may have ended")]
    NoSuchProcess(u32),
    #[error("signal {0} does not exist; give a number from 1 to 64")]
    InvalidSignal(i32),
    #[error("signal {signal} cannot be sent to process {pid}: {source}")]
    Refused { pid: u32, signal: i32, source: std::io::Error },
}

/// Why input cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StdinError {
    #[error("process {0} is not running; it may have ended")]
    NoSuchProcess(u32),
    #[error("process {0} has no open stdin; ask for one at its start, and write to it only once")]
    NotOpen(u32),
}

struct Child {
    info: ProcessInfo,
    exit: oneshot::Sender<Exit>,
    stdin: Option<pipe::Sender>,
    /// The whole group is to end with the child.
    ending: bool,
}

/// The table.
#[derive(Default)]
pub(crate) struct Children {
    table: Mutex<HashMap<u32, Child>>,
    /// Told whenever something was reaped.
    reaped: Notify,
}

/// What is left to the starter of a child.
pub(crate) struct Started {
    pub(crate) pid: u32,
    pub(crate) stdout: pipe::Receiver,
    pub(crate) stderr: pipe::Receiver,
    pub(crate) exit: oneshot::Receiver<Exit>,
}

impl Children {
    fn table(&self) -> MutexGuard<'_, HashMap<u32, Child>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a child and enters it into the table before anyone can reap it.
    pub(crate) fn start(
        &self,
        command: &spawn::Prepared,
        describe: impl FnOnce(u32) -> ProcessInfo,
    ) -> Result<Started, SpawnError> {
        let mut table = self.table();
        if table.len() >= MAX_CHILDREN {
            return Err(SpawnError::TooManyProcesses { limit: MAX_CHILDREN });
        }
        let Spawned { pid, stdin, stdout, stderr } = command.spawn()?;
        let (exit, ended) = oneshot::channel();
        let info = describe(pid);
        table.insert(pid, Child { info, exit, stdin, ending: false });
        Ok(Started { pid, stdout, stderr, exit: ended })
    }

    /// The children that run, oldest first.
    pub(crate) fn list(&self) -> Vec<ProcessInfo> {
        let mut list: Vec<_> = self.table().values().map(|child| child.info.clone()).collect();
        list.sort_by_key(|info| (info.started_uptime_ms, info.pid));
        list
    }

    /// Takes a child's stdin, which only one caller can have.
    pub(crate) fn take_stdin(&self, pid: u32) -> Result<pipe::Sender, StdinError> {
        let mut table = self.table();
        let child = table.get_mut(&pid).ok_or(StdinError::NoSuchProcess(pid))?;
        child.stdin.take().ok_or(StdinError::NotOpen(pid))
    }

    /// Signals a child's group.
    pub(crate) fn signal(&self, pid: u32, signal: i32) -> Result<(), SignalError> {
        if !(1..=64).contains(&signal) {
            return Err(SignalError::InvalidSignal(signal));
        }
        let table = self.table();
        if !table.contains_key(&pid) {
            return Err(SignalError::NoSuchProcess(pid));
        }
        kill_group(pid, signal).map_err(|source| SignalError::Refused { pid, signal, source })
    }

    /// Ends a child's group: `signal` now, and KILL for the rest of the group once the child ends.
    pub(crate) fn end(&self, pid: u32, signal: i32) {
        let mut table = self.table();
        if let Some(child) = table.get_mut(&pid) {
            child.ending = true;
            // The group exists as long as its leader is not reaped.
            let _ = kill_group(pid, signal);
        }
    }

    /// Ends every child's group.
    pub(crate) fn signal_all(&self, signal: i32) {
        let pids: Vec<u32> = self.table().keys().copied().collect();
        pids.into_iter().for_each(|pid| self.end(pid, signal));
    }

    /// Waits until no child is left; for an init that means adopted ones too.
    pub(crate) async fn wait_all_gone(&self, role: Role) {
        loop {
            let reaped = self.reaped.notified();
            let gone = match role {
                Role::Process => self.table().is_empty(),
                Role::Init => matches!(next_zombie(), Err(Nothing::NoChildren)),
            };
            if gone {
                return;
            }
            reaped.await;
        }
    }

    /// Reaps everything that has ended.
    fn reap(&self) {
        let mut table = self.table();
        while let Ok(pid) = next_zombie() {
            if table.get(&pid).is_some_and(|child| child.ending) {
                // Still a zombie, so the group id is still the child's.
                let _ = kill_group(pid, libc::SIGKILL);
            }
            let Some((status, usage)) = wait(pid) else { break };
            if let Some(child) = table.remove(&pid) {
                // The follower may be gone; the status then interests nobody.
                let _ = child.exit.send(Exit { status, usage, at: Instant::now() });
            }
        }
        drop(table);
        self.reaped.notify_waiters();
    }
}

/// Reaps the agent's children, and orphans given to it, as they end.
pub(crate) async fn reap_forever(children: std::sync::Arc<Children>) {
    let Ok(mut ended) = signal(SignalKind::child()) else { return };
    loop {
        children.reap();
        if ended.recv().await.is_none() {
            return;
        }
    }
}

enum Nothing {
    /// Children run, none has ended.
    NotYet,
    NoChildren,
}

/// The id of a child that has ended, left unreaped.
fn next_zombie() -> Result<u32, Nothing> {
    // SAFETY: an all-zero siginfo is a valid value to be overwritten.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is valid for writing for the length of the call.
    if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) } != 0 {
        return Err(Nothing::NoChildren);
    }
    // SAFETY: waitid filled the fields of a SIGCHLD, or left the zeros.
    let pid = unsafe { info.si_pid() };
    if pid == 0 { Err(Nothing::NotYet) } else { Ok(pid.unsigned_abs()) }
}

fn wait(pid: u32) -> Option<(libc::c_int, libc::rusage)> {
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid value to be overwritten.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let pid = libc::pid_t::try_from(pid).ok()?;
    // SAFETY: both pointers are valid for writing for the length of the call.
    let waited = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) };
    (waited == pid).then_some((status, usage))
}

fn kill_group(pid: u32, signal: i32) -> std::io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(std::io::Error::other)?;
    // SAFETY: kill takes plain numbers; the caller holds the table, so the group is a child's.
    if unsafe { libc::kill(-pid, signal) } == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}
