//! Following one process: its output, its time limit, its end.
//!
//! ```text
//! running ──exit──► draining ──pipes closed, or quiet for 500 ms──► exited event ──► done
//!    │ time limit, or the caller left
//!    └────► TERM to the group ──grace──► KILL ──exit──► draining
//! ```
//!
//! One task per process. It holds one chunk that waits for the caller and a queue of
//! [`QUEUE`] more; while they wait it reads nothing, and the process blocks on its full pipe.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use aetherium_agent_proto::rpc::MAX_CHUNK_BYTES;
use aetherium_agent_proto::{DEFAULT_KILL_GRACE_MS, ExecSpec, ExitReport, ExitStatus, ProcessInfo};
use bytes::{Bytes, BytesMut};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::children::{Children, Exit, Started};
use super::spawn::{Prepared, SpawnError};

/// How many events wait for the caller, beside the one in hand.
const QUEUE: usize = 2;
/// How long an ended process's pipes may be quiet before others that hold them are left alone.
const QUIET: Duration = Duration::from_millis(500);
/// How long and how much output is taken after the end from others that keep writing.
const DRAIN_TIME: Duration = Duration::from_secs(2);
const DRAIN_BYTES: usize = 1024 * 1024;
/// What a read asks for at least; less room than this is not worth a system call.
const MIN_READ: usize = 16 * 1024;

/// What a process did.
#[derive(Debug)]
pub(crate) enum ChildEvent {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The last one.
    Exited(ExitReport),
}

/// A process that runs. Dropping the events ends it.
pub(crate) struct Running {
    pub(crate) pid: u32,
    pub(crate) events: mpsc::Receiver<ChildEvent>,
}

/// Starts a command and a task that follows it. The task ends with the process.
pub(crate) fn start(children: &Arc<Children>, spec: ExecSpec) -> Result<Running, SpawnError> {
    let prepared = Prepared::new(spec)?;
    let began = Instant::now();
    let started = children.start(&prepared, |pid| describe(pid, prepared.spec()))?;
    let (sender, events) = mpsc::channel(QUEUE);
    let pid = started.pid;
    let supervisor = Supervisor::new(children.clone(), started, sender, prepared.spec(), began);
    tokio::spawn(supervisor.run());
    Ok(Running { pid, events })
}

fn describe(pid: u32, spec: &ExecSpec) -> ProcessInfo {
    ProcessInfo {
        pid,
        argv: spec.argv.clone(),
        cwd: spec.cwd.clone(),
        user: spec.user.clone(),
        tag: spec.tag.clone(),
        started_uptime_ms: crate::clock::uptime_ms(),
    }
}

struct Supervisor {
    children: Arc<Children>,
    pid: u32,
    events: mpsc::Sender<ChildEvent>,
    output: Output,
    exit: oneshot::Receiver<Exit>,
    began: Instant,
    /// When the time limit is reached.
    limit: Option<Instant>,
    grace: Duration,
    /// When what ignores TERM is killed.
    kill_at: Option<Instant>,
    timed_out: bool,
    abandoned: bool,
    waiting: Option<ChildEvent>,
    drain: Option<Drain>,
}

/// The time after the end.
struct Drain {
    report: ExitReport,
    quiet_at: Instant,
    over_at: Instant,
    bytes_left: usize,
}

/// The next thing that happens to a process.
enum Step {
    Exited(Option<Exit>),
    Abandoned,
    LimitReached,
    GraceOver,
    Sent,
    Read(ChildEvent),
    Drained,
}

impl Supervisor {
    fn new(
        children: Arc<Children>,
        started: Started,
        events: mpsc::Sender<ChildEvent>,
        spec: &ExecSpec,
        began: Instant,
    ) -> Self {
        let limit = spec.timeout_ms.map(Duration::from_millis);
        let grace = Duration::from_millis(spec.kill_grace_ms.unwrap_or(DEFAULT_KILL_GRACE_MS));
        Self {
            children,
            pid: started.pid,
            events,
            output: Output::new(started.stdout, started.stderr),
            exit: started.exit,
            began,
            limit: limit.and_then(|limit| began.checked_add(limit)),
            grace,
            kill_at: None,
            timed_out: false,
            abandoned: false,
            waiting: None,
            drain: None,
        }
    }

    async fn run(mut self) {
        loop {
            match self.step().await {
                Step::Exited(Some(exit)) => self.begin_drain(&exit),
                // The reaper is gone, and with it the agent.
                Step::Exited(None) => return,
                Step::Abandoned => {
                    self.abandoned = true;
                    self.waiting = None;
                    self.end_group();
                }
                Step::LimitReached => {
                    self.limit = None;
                    self.timed_out = true;
                    self.end_group();
                }
                Step::GraceOver => {
                    self.kill_at = None;
                    self.children.end(self.pid, libc::SIGKILL);
                }
                Step::Sent => {}
                Step::Read(event) => self.hold(event),
                Step::Drained => break,
            }
            if self.abandoned && self.drain.is_some() {
                return;
            }
        }
        if let Some(drain) = self.drain {
            // The last event waits for its reader as any other; a reader that left wants none.
            let _ = self.events.send(ChildEvent::Exited(drain.report)).await;
        }
    }

    /// Waits for whatever comes first. What ends a process goes before what feeds its reader.
    async fn step(&mut self) -> Step {
        let running = self.drain.is_none();
        let may_read = self.waiting.is_none() && !self.abandoned;
        let (quiet_at, closed) = match &self.drain {
            Some(drain) => (drain.quiet_at.min(drain.over_at), self.output.is_closed()),
            None => (self.began, false),
        };
        let used_up = self.drain.as_ref().is_some_and(|drain| drain.bytes_left == 0);
        if may_read && !running && (closed || used_up) {
            return Step::Drained;
        }
        tokio::select! {
            biased;
            exit = &mut self.exit, if running => Step::Exited(exit.ok()),
            () = self.events.closed(), if !self.abandoned => Step::Abandoned,
            () = until(self.limit), if running && self.limit.is_some() => Step::LimitReached,
            () = until(self.kill_at), if running && self.kill_at.is_some() => Step::GraceOver,
            permit = self.events.reserve(), if self.waiting.is_some() => {
                if let (Ok(permit), Some(event)) = (permit, self.waiting.take()) {
                    permit.send(event);
                }
                Step::Sent
            }
            event = self.output.read(), if may_read && !self.output.is_closed() => {
                event.map_or(Step::Sent, Step::Read)
            }
            () = sleep_until(quiet_at), if may_read && !running => Step::Drained,
        }
    }

    fn end_group(&mut self) {
        self.children.end(self.pid, libc::SIGTERM);
        self.kill_at = Some(Instant::now() + self.grace);
    }

    fn hold(&mut self, event: ChildEvent) {
        if let (Some(drain), ChildEvent::Stdout(data) | ChildEvent::Stderr(data)) =
            (&mut self.drain, &event)
        {
            drain.bytes_left = drain.bytes_left.saturating_sub(data.len());
            drain.quiet_at = Instant::now() + QUIET;
        }
        self.waiting = Some(event);
    }

    fn begin_drain(&mut self, exit: &Exit) {
        let now = Instant::now();
        self.drain = Some(Drain {
            report: self.report(exit),
            quiet_at: now + QUIET,
            over_at: now + DRAIN_TIME,
            bytes_left: DRAIN_BYTES,
        });
    }

    fn report(&self, exit: &Exit) -> ExitReport {
        let status = if self.timed_out {
            ExitStatus::Timeout
        } else if libc::WIFSIGNALED(exit.status) {
            ExitStatus::Signal(libc::WTERMSIG(exit.status))
        } else {
            ExitStatus::Code(libc::WEXITSTATUS(exit.status))
        };
        let wall = exit.at.saturating_duration_since(self.began);
        ExitReport {
            status,
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            user_ms: millis(exit.usage.ru_utime),
            sys_ms: millis(exit.usage.ru_stime),
            max_rss_kib: u64::try_from(exit.usage.ru_maxrss).unwrap_or(0),
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn millis(time: libc::timeval) -> u64 {
    time.tv_sec.unsigned_abs() * 1_000 + time.tv_usec.unsigned_abs() / 1_000
}

/// Both output pipes, read in turn as they fill.
struct Output {
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    buffer: BytesMut,
}

impl Output {
    fn new(stdout: pipe::Receiver, stderr: pipe::Receiver) -> Self {
        Self { stdout: Some(stdout), stderr: Some(stderr), buffer: BytesMut::new() }
    }

    fn is_closed(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    /// The next output; `None` when a pipe has closed instead. Safe to drop.
    async fn read(&mut self) -> Option<ChildEvent> {
        if self.buffer.capacity() < MIN_READ {
            self.buffer.reserve(MAX_CHUNK_BYTES);
        }
        // Only readiness is awaited, so a dropped read has taken nothing.
        let is_stdout = tokio::select! {
            true = readable(self.stdout.as_ref()) => true,
            true = readable(self.stderr.as_ref()) => false,
            else => return None,
        };
        let pipe = if is_stdout { &mut self.stdout } else { &mut self.stderr };
        match pipe.as_mut()?.try_read_buf(&mut self.buffer) {
            Ok(0) => {
                *pipe = None;
                None
            }
            Ok(_) if is_stdout => Some(ChildEvent::Stdout(self.buffer.split().freeze())),
            Ok(_) => Some(ChildEvent::Stderr(self.buffer.split().freeze())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) => {
                *pipe = None;
                None
            }
        }
    }
}

async fn readable(pipe: Option<&pipe::Receiver>) -> bool {
    match pipe {
        // An error shows again in the read that follows.
        Some(pipe) => {
            let _ = pipe.readable().await;
            true
        }
        None => false,
    }
}
