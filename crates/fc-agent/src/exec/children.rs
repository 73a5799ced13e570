//! The agent's children: one table, one reaper.
//!
//! A single place waits for children, so that a status can never go to the wrong waiter. A child is
//! among the running exactly from its start until it is reaped; its id cannot mean another process
//! while it is there, so signals are sent under the table's lock and nowhere else. The ended are
//! remembered for a while, for those who ask late.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aetherium_agent_proto::{ExecSpec, ProcessInfo, ProcessSelector, Stdio, StreamOffsets};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cgroup::Cgroups;
use super::log::{Budget, Log};
use super::process::{Process, Reader};
use super::spawn::{Prepared, SpawnError, Spawned};
use super::supervise::{Output, Supervisor, Times};
use super::wait::{self, Nothing};
use crate::serve::Role;

/// The most processes at once.
const MAX_CHILDREN: usize = 2_048;
/// How many ended processes are remembered, and how long.
const MAX_ENDED: usize = 128;
const REMEMBERED: Duration = Duration::from_secs(600);

/// Whether the agent serves, or is about to replace its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    /// Callers are sent away, to come back soon.
    HandingOver,
    /// Nothing moves any more.
    Frozen,
}

/// How a child ended, as the kernel tells it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exit {
    pub(crate) status: libc::c_int,
    pub(crate) user_ms: u64,
    pub(crate) sys_ms: u64,
    pub(crate) max_rss_kib: u64,
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

/// Why a process cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    #[error("{0} is not known; it never was, or it ended too long ago to be remembered")]
    NoSuchProcess(ProcessSelector),
    #[error("the starter's place of process {0} is taken; attach beside it, or end its holder")]
    PlaceTaken(u32),
}

/// A child that has not been reaped.
pub(super) struct Child {
    pub(super) process: Arc<Process>,
    pub(super) exit: oneshot::Sender<Exit>,
    /// The whole group is to end with the child.
    pub(super) ending: bool,
}

#[derive(Default)]
pub(super) struct Table {
    pub(super) running: HashMap<u32, Child>,
    /// Oldest first.
    pub(super) ended: VecDeque<(Instant, Arc<Process>)>,
}

/// The table.
pub(crate) struct Children {
    table: Mutex<Table>,
    /// Told whenever something was reaped.
    reaped: Notify,
    cgroups: Cgroups,
    budget: Arc<Budget>,
    /// What the agent was given, and its children get in turn, if it has raised its own.
    descriptor_limit: Option<libc::rlimit64>,
    pub(super) phase: watch::Sender<Phase>,
    /// One per process.
    pub(super) supervisors: Mutex<JoinSet<Option<Box<Supervisor>>>>,
}

impl Children {
    /// An empty table. Children get `descriptor_limit`, if that is not the agent's own.
    pub(crate) fn new(descriptor_limit: Option<libc::rlimit64>) -> Self {
        Self {
            table: Mutex::default(),
            reaped: Notify::new(),
            cgroups: Cgroups::find(),
            budget: Arc::default(),
            descriptor_limit,
            phase: watch::Sender::new(Phase::Serving),
            supervisors: Mutex::default(),
        }
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    pub(super) fn new_log(&self) -> Log {
        Log::new(self.budget.clone())
    }

    /// Starts a command and a task that follows it. The task ends with the process. The reader has
    /// the starter's place.
    pub(crate) fn start(self: &Arc<Self>, spec: ExecSpec) -> Result<Reader, SpawnError> {
        let prepared = Prepared::new(spec)?;
        let began = Instant::now();
        let mut table = self.table();
        if table.running.len() >= MAX_CHILDREN {
            return Err(SpawnError::TooManyProcesses { limit: MAX_CHILDREN });
        }
        let Spawned { pid, mut ends, cgroup } =
            prepared.spawn(&self.cgroups, self.descriptor_limit)?;
        let info = describe(pid, &prepared);
        let process = Arc::new(Process::new(info, self.new_log(), &mut ends));
        let exit = table.enter(process.clone(), false);
        drop(table);
        let reader = process.starter(self.phase.subscribe());
        self.supervise(Supervisor {
            children: self.clone(),
            process,
            output: Output::new(ends),
            exit,
            cgroup,
            phase: self.phase.subscribe(),
            times: Times::new(began, prepared.spec()),
            drain: None,
        });
        Ok(reader)
    }

    /// Runs a supervisor's task.
    pub(super) fn supervise(&self, supervisor: Supervisor) {
        let mut tasks = self.supervisors.lock().unwrap_or_else(PoisonError::into_inner);
        // What those that have finished left behind is nothing but their place.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(Box::new(supervisor).run());
    }

    /// The children that run, oldest first; with `ended`, those remembered before them.
    pub(crate) fn list(&self, ended: bool) -> Vec<ProcessInfo> {
        let mut table = self.table();
        table.forget_old();
        let remembered = table.ended.iter().filter(|_| ended).map(|(_, process)| process.info());
        let running = table.running.values().map(|child| child.process.info());
        let mut list: Vec<_> = remembered.chain(running).collect();
        list.sort_by_key(|info| (info.started_uptime_ms, info.pid));
        list
    }

    /// A process, running or remembered.
    pub(crate) fn find(&self, selector: &ProcessSelector) -> Result<Arc<Process>, AttachError> {
        let mut table = self.table();
        table.forget_old();
        let found = match selector {
            ProcessSelector::Pid(pid) => table.by_pid(*pid),
            ProcessSelector::Tag(tag) => table.by_tag(tag),
        };
        found.ok_or_else(|| AttachError::NoSuchProcess(selector.clone()))
    }

    /// Follows a process that was started before.
    pub(crate) fn attach(
        &self,
        selector: &ProcessSelector,
        from: Option<StreamOffsets>,
        as_starter: bool,
    ) -> Result<Reader, AttachError> {
        let process = self.find(selector)?;
        let reader = process.attach(from, as_starter, self.phase.subscribe());
        reader.ok_or_else(|| AttachError::PlaceTaken(process.pid()))
    }

    /// Whether, and from when on, the agent hands over. For those who write to a process.
    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Signals a child's group.
    pub(crate) fn signal(&self, pid: u32, signal: i32) -> Result<(), SignalError> {
        if !(1..=64).contains(&signal) {
            return Err(SignalError::InvalidSignal(signal));
        }
        let table = self.table();
        if !table.running.contains_key(&pid) {
            return Err(SignalError::NoSuchProcess(pid));
        }
        wait::kill_group(pid, signal).map_err(|source| SignalError::Refused { pid, signal, source })
    }

    /// Ends a child's group: `signal` now, and KILL for the rest of the group once the child ends.
    pub(crate) fn end(&self, pid: u32, signal: i32) {
        let mut table = self.table();
        if let Some(child) = table.running.get_mut(&pid) {
            child.ending = true;
            // The group exists as long as its leader is not reaped.
            let _ = wait::kill_group(pid, signal);
        }
    }

    /// Ends every child's group.
    pub(crate) fn signal_all(&self, signal: i32) {
        let pids: Vec<u32> = self.table().running.keys().copied().collect();
        pids.into_iter().for_each(|pid| self.end(pid, signal));
    }

    /// Waits until no child is left; for an init that means adopted ones too.
    pub(crate) async fn wait_all_gone(&self, role: Role) {
        loop {
            let reaped = self.reaped.notified();
            let gone = match role {
                Role::Process => self.table().running.is_empty(),
                Role::Init => matches!(wait::next_zombie(), Err(Nothing::NoChildren)),
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
        while let Ok(pid) = wait::next_zombie() {
            if table.running.get(&pid).is_some_and(|child| child.ending) {
                // Still a zombie, so the group id is still the child's.
                let _ = wait::kill_group(pid, libc::SIGKILL);
            }
            let Some(exit) = wait::wait(pid) else { break };
            if let Some(child) = table.running.remove(&pid) {
                table.remember(child.process);
                // The supervisor may be gone with the runtime; the status then interests nobody.
                let _ = child.exit.send(exit);
            }
        }
        drop(table);
        self.reaped.notify_waiters();
    }
}

impl Table {
    /// Enters a child before anyone can reap it.
    pub(super) fn enter(&mut self, process: Arc<Process>, ending: bool) -> oneshot::Receiver<Exit> {
        let (exit, ended) = oneshot::channel();
        self.running.insert(process.pid(), Child { process, exit, ending });
        ended
    }

    fn remember(&mut self, process: Arc<Process>) {
        self.forget_old();
        if self.ended.len() >= MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back((Instant::now(), process));
    }

    fn forget_old(&mut self) {
        while self.ended.front().is_some_and(|(at, _)| at.elapsed() > REMEMBERED) {
            self.ended.pop_front();
        }
    }

    fn by_pid(&self, pid: u32) -> Option<Arc<Process>> {
        let running = self.running.get(&pid).map(|child| &child.process);
        let ended = || self.ended.iter().rev().map(|(_, process)| process);
        running.or_else(|| ended().find(|process| process.pid() == pid)).cloned()
    }

    fn by_tag(&self, tag: &str) -> Option<Arc<Process>> {
        let running = self.running.values().map(|child| &child.process);
        let all = running.chain(self.ended.iter().map(|(_, process)| process));
        let tagged = all.filter(|process| process.tag() == Some(tag));
        tagged.max_by_key(|process| process.started_uptime_ms()).cloned()
    }
}

fn describe(pid: u32, prepared: &Prepared) -> ProcessInfo {
    let spec = prepared.spec();
    ProcessInfo {
        pid,
        argv: prepared.argv().to_vec(),
        cwd: spec.cwd.clone(),
        user: spec.user.clone(),
        tag: spec.tag.clone(),
        started_uptime_ms: crate::clock::uptime_ms(),
        life: spec.life,
        terminal: matches!(spec.stdio, Stdio::Terminal(_)),
        exited: None,
    }
}

/// Reaps the agent's children, and orphans given to it, as they end.
pub(crate) async fn reap_forever(children: Arc<Children>) {
    let Ok(mut ended) = signal(SignalKind::child()) else { return };
    loop {
        children.reap();
        if ended.recv().await.is_none() {
            return;
        }
    }
}
