//! Following one process: its output, its time limit, its end.
//!
//! ```text
//! running ──exit──► draining ──pipes closed, or quiet for 500 ms──► drained ──► done
//!    │ time limit, or the starter left an attached process
//!    └────► TERM to the group ──grace──► KILL ──exit──► draining
//! ```
//!
//! One task per process. It reads as much as the process's log has room for; while the starter does
//! not read, that is soon nothing, and the process blocks on its full pipe.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use aetherium_agent_proto::rpc::MAX_CHUNK_BYTES;
use aetherium_agent_proto::{DEFAULT_KILL_GRACE_MS, ExecSpec, ExitReport, ExitStatus};
use bytes::BytesMut;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::cgroup::Cgroup;
use super::children::{Children, Exit, Phase};
use super::descriptor::{Descriptor, Readable};
use super::log::StreamId;
use super::process::{Place, Process};
use super::spawn::Ends;

/// How long an ended process's pipes may be quiet before others that hold them are left alone.
const QUIET: Duration = Duration::from_millis(500);
/// How long and how much output is taken after the end from others that keep writing.
const DRAIN_TIME: Duration = Duration::from_secs(2);
const DRAIN_BYTES: usize = 1024 * 1024;
/// What a read asks for at least; less room than this is not worth a system call.
const MIN_READ: usize = 16 * 1024;
/// How long a process is quiet before buffers larger than what is held in them are given back.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// The task's state. It is the task's alone, but for a handover.
pub(super) struct Supervisor {
    pub(super) children: Arc<Children>,
    pub(super) process: Arc<Process>,
    pub(super) output: Output,
    pub(super) exit: oneshot::Receiver<Exit>,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) times: Times,
    pub(super) drain: Option<Drain>,
}

/// When a process began and what becomes of it when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) began: Instant,
    /// When the time limit is reached.
    pub(super) limit: Option<Instant>,
    pub(super) grace: Duration,
    /// When what ignores TERM is killed.
    pub(super) kill_at: Option<Instant>,
    pub(super) timed_out: bool,
    pub(super) abandoned: bool,
}

impl Times {
    pub(super) fn new(began: Instant, spec: &ExecSpec) -> Self {
        let limit = spec.timeout_ms.map(Duration::from_millis);
        let grace = Duration::from_millis(spec.kill_grace_ms.unwrap_or(DEFAULT_KILL_GRACE_MS));
        Self {
            began,
            limit: limit.and_then(|limit| began.checked_add(limit)),
            grace,
            kill_at: None,
            timed_out: false,
            abandoned: false,
        }
    }
}

/// The time after the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drain {
    quiet_at: Instant,
    over_at: Instant,
    bytes_left: usize,
}

impl Drain {
    pub(super) fn begin() -> Self {
        let now = Instant::now();
        Self { quiet_at: now + QUIET, over_at: now + DRAIN_TIME, bytes_left: DRAIN_BYTES }
    }
}

/// The next thing that happens to a process.
enum Step {
    Exited(Option<Exit>),
    Abandoned,
    LimitReached,
    GraceOver,
    ReturnOver,
    /// Look again.
    Again,
    Read(StreamId),
    Settle,
    Drained,
    Frozen,
}

impl Supervisor {
    /// Follows the process to its end. Returns itself if it is to be handed over before.
    pub(super) async fn run(mut self: Box<Self>) -> Option<Box<Self>> {
        loop {
            match self.step().await {
                Step::Exited(Some(exit)) => self.begin_drain(&exit),
                // The reaper is gone, and with it the agent.
                Step::Exited(None) => return None,
                Step::Abandoned => {
                    self.times.abandoned = true;
                    self.end_group();
                }
                Step::LimitReached => {
                    self.times.limit = None;
                    self.times.timed_out = true;
                    self.end_group();
                }
                Step::GraceOver => {
                    self.times.kill_at = None;
                    self.children.end(self.process.pid(), libc::SIGKILL);
                }
                Step::ReturnOver => self.process.vacate(),
                Step::Again => {}
                Step::Read(stream) => self.take(stream),
                Step::Settle => {
                    self.output.buffer = BytesMut::new();
                    self.process.settle();
                }
                Step::Drained => break,
                Step::Frozen => return Some(self),
            }
        }
        self.process.set_drained();
        None
    }

    /// Waits for whatever comes first. What ends a process goes before what feeds its readers.
    async fn step(&mut self) -> Step {
        let Self { process, output, times, phase, .. } = self;
        let running = self.drain.is_none();
        let room = StreamId::ALL.map(|stream| process.room(stream));
        let waits_for_starter = output.waits_for(room);
        if let Some(drain) = &self.drain
            && (output.is_closed() || (drain.bytes_left == 0 && !waits_for_starter))
        {
            return Step::Drained;
        }
        if running && !times.abandoned && process.is_abandoned() {
            return Step::Abandoned;
        }
        let return_by = match process.place() {
            Place::Kept { until } => Some(until),
            Place::Taken | Place::Empty => None,
        };
        let quiet_at = self.drain.as_ref().map(|drain| drain.quiet_at.min(drain.over_at));
        let is_loose = output.buffer.capacity() > 0 || process.is_loose();
        let settle_at = is_loose.then(|| Instant::now() + SETTLE_TIME);
        tokio::select! {
            biased;
            exit = &mut self.exit, if running => Step::Exited(exit.ok()),
            () = process.wake.notified() => Step::Again,
            _ = phase.wait_for(|phase| *phase == Phase::Frozen) => Step::Frozen,
            () = until(times.limit), if running => Step::LimitReached,
            () = until(times.kill_at), if running => Step::GraceOver,
            () = until(return_by) => Step::ReturnOver,
            read = output.read(room) => read.map_or(Step::Again, Step::Read),
            () = until(quiet_at), if !waits_for_starter => Step::Drained,
            () = until(settle_at) => Step::Settle,
        }
    }

    fn end_group(&mut self) {
        self.children.end(self.process.pid(), libc::SIGTERM);
        self.times.kill_at = Some(Instant::now() + self.times.grace);
    }

    /// Moves what was read into the log.
    fn take(&mut self, stream: StreamId) {
        let data = self.output.buffer.split().freeze();
        if let Some(drain) = &mut self.drain {
            drain.bytes_left = drain.bytes_left.saturating_sub(data.len());
            drain.quiet_at = Instant::now() + QUIET;
        }
        self.process.push(stream, data);
    }

    pub(super) fn begin_drain(&mut self, exit: &Exit) {
        let report = self.report(exit);
        self.process.set_exit(report);
        self.drain = Some(Drain::begin());
    }

    fn report(&mut self, exit: &Exit) -> ExitReport {
        let usage = self.cgroup.as_ref().map(Cgroup::usage);
        if let Some(cgroup) = self.cgroup.take() {
            self.children.cgroups().retire(cgroup);
        }
        let killed = libc::WIFSIGNALED(exit.status) && libc::WTERMSIG(exit.status) == libc::SIGKILL;
        let status = if self.times.timed_out {
            ExitStatus::Timeout
        } else if killed && usage.as_ref().is_some_and(|usage| usage.oom_killed) {
            ExitStatus::Oom
        } else if libc::WIFSIGNALED(exit.status) {
            ExitStatus::Signal(libc::WTERMSIG(exit.status))
        } else {
            ExitStatus::Code(libc::WEXITSTATUS(exit.status))
        };
        let wall = exit.at.saturating_duration_since(self.times.began);
        let group_kib = usage.and_then(|usage| usage.peak_memory_bytes).map(|bytes| bytes / 1024);
        ExitReport {
            status,
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            user_ms: exit.user_ms,
            sys_ms: exit.sys_ms,
            max_rss_kib: group_kib.unwrap_or(0).max(exit.max_rss_kib),
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Both output pipes, or the terminal, read as they fill.
pub(super) struct Output {
    pub(super) stdout: Option<Arc<Descriptor>>,
    pub(super) stderr: Option<Arc<Descriptor>>,
    buffer: BytesMut,
}

impl Output {
    pub(super) fn new(ends: Ends) -> Self {
        match ends {
            Ends::Pipes { stdout, stderr, .. } => {
                Self::adopt(Some(Arc::new(stdout)), Some(Arc::new(stderr)))
            }
            Ends::Terminal(terminal) => Self::adopt(Some(terminal), None),
        }
    }

    pub(super) fn adopt(stdout: Option<Arc<Descriptor>>, stderr: Option<Arc<Descriptor>>) -> Self {
        Self { stdout, stderr, buffer: BytesMut::new() }
    }

    fn is_closed(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    /// Whether something is open and nothing may be read.
    fn waits_for(&self, [stdout, stderr]: [usize; 2]) -> bool {
        !self.is_closed()
            && (self.stdout.is_none() || stdout == 0)
            && (self.stderr.is_none() || stderr == 0)
    }

    /// Reads into the buffer and says from where; `None` when a pipe has closed instead. Waits for
    /// ever while there is no room or nothing is open. Safe to drop.
    async fn read(&mut self, [stdout_room, stderr_room]: [usize; 2]) -> Option<StreamId> {
        // Only readiness is awaited, so a dropped read has taken nothing.
        let (mut ready, stream, room) = tokio::select! {
            Some(ready) = readable(self.stdout.as_deref(), stdout_room) => {
                (ready, StreamId::Stdout, stdout_room)
            }
            Some(ready) = readable(self.stderr.as_deref(), stderr_room) => {
                (ready, StreamId::Stderr, stderr_room)
            }
            else => return std::future::pending().await,
        };
        if self.buffer.capacity() < MIN_READ.min(room) {
            self.buffer.reserve(MAX_CHUNK_BYTES);
        }
        let outcome = match &mut ready {
            Ok(ready) => ready.read(&mut self.buffer, room)?,
            Err(error) => Err(io::Error::from(error.kind())),
        };
        drop(ready);
        match outcome {
            Ok(1..) => return Some(stream),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return None,
            // The end, or a descriptor that has none.
            Ok(0) | Err(_) => {}
        }
        match stream {
            StreamId::Stdout => self.stdout = None,
            StreamId::Stderr => self.stderr = None,
        }
        None
    }
}

async fn readable(end: Option<&Descriptor>, room: usize) -> Option<io::Result<Readable<'_>>> {
    match end {
        Some(end) if room > 0 => Some(end.readable().await),
        _ => None,
    }
}
