//! One process as everybody else sees it: its output, its input, its end.
//!
//! ```text
//! supervisor ──push──► Log ◄──pull── Reader (starter: sets the pace)
//!                          ◄──pull── Reader (anyone else: may miss something, and is told)
//! ```
//!
//! Owns what outlives any one call. A process has one starter's place; who has it is waited for, and
//! where nobody has, output is only kept as far as the log's tail goes.

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aetherium_agent_proto::{ExitReport, Life, ProcessInfo, StreamOffsets, TerminalSize};
use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::children::Phase;
use super::descriptor::Descriptor;
use super::log::{Cursor, Log, Piece, StreamId};
use super::spawn::Ends;
use super::terminal;

/// A process, running or ended.
pub(crate) struct Process {
    info: ProcessInfo,
    state: Mutex<State>,
    stdin: Mutex<Stdin>,
    /// Told to readers and waiters: there is output, or the end.
    news: Notify,
    /// Told to the supervisor: the starter's place or its reader's position has changed.
    pub(super) wake: Notify,
}

struct State {
    log: Log,
    place: Place,
    readers: usize,
    exit: Option<ExitReport>,
    /// All its output is in the log.
    drained: bool,
}

/// The starter's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Taken,
    /// Its holder's stream was handed over, and it is expected back until then.
    Kept {
        until: Instant,
    },
    Empty,
}

/// Where what is written to a process goes.
pub(super) enum Stdin {
    Pipe(Descriptor),
    /// A writer has the pipe.
    Lent,
    Terminal(Arc<Descriptor>),
    Closed,
}

/// Why input cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StdinError {
    #[error("process {0} has no open stdin; ask for one at its start, and do not close it before")]
    NotOpen(u32),
    #[error("another caller writes to the stdin of process {0}; wait until it has finished")]
    Busy(u32),
}

/// Why a terminal has no new size.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResizeError {
    #[error("process {0} has no terminal; ask for one at its start")]
    NoTerminal(u32),
    #[error("the terminal of process {pid} cannot be resized: {source}")]
    Refused { pid: u32, source: io::Error },
}

impl Process {
    /// A process that has just been started, with its starter's place taken.
    pub(super) fn new(info: ProcessInfo, log: Log, ends: &mut Ends) -> Self {
        let stdin = match ends {
            Ends::Pipes { stdin, .. } => stdin.take().map_or(Stdin::Closed, Stdin::Pipe),
            Ends::Terminal(terminal) => Stdin::Terminal(terminal.clone()),
        };
        Self::restore(info, log, stdin, Place::Taken, None, false)
    }

    /// A process as it was left.
    pub(super) fn restore(
        info: ProcessInfo,
        log: Log,
        stdin: Stdin,
        place: Place,
        exit: Option<ExitReport>,
        drained: bool,
    ) -> Self {
        let state = State { log, place, readers: 0, exit, drained };
        Self {
            info,
            state: Mutex::new(state),
            stdin: Mutex::new(stdin),
            news: Notify::new(),
            wake: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stdin(&self) -> MutexGuard<'_, Stdin> {
        self.stdin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.info.pid
    }

    pub(crate) fn info(&self) -> ProcessInfo {
        ProcessInfo { exited: self.state().exit, ..self.info.clone() }
    }

    pub(super) fn tag(&self) -> Option<&str> {
        self.info.tag.as_deref()
    }

    pub(super) fn started_uptime_ms(&self) -> u64 {
        self.info.started_uptime_ms
    }

    pub(crate) fn has_terminal(&self) -> bool {
        self.info.terminal
    }

    pub(super) fn with_log<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
        look(&self.state().log)
    }

    pub(super) fn with_stdin<T>(&self, look: impl FnOnce(&Stdin) -> T) -> T {
        look(&self.stdin())
    }

    // What the supervisor does.

    pub(super) fn push(&self, stream: StreamId, data: Bytes) {
        self.state().log.push(stream, data);
        self.news.notify_waiters();
    }

    pub(super) fn room(&self, stream: StreamId) -> usize {
        self.state().log.room(stream)
    }

    pub(super) fn is_loose(&self) -> bool {
        self.state().log.is_loose()
    }

    pub(super) fn settle(&self) {
        self.state().log.settle();
    }

    pub(super) fn place(&self) -> Place {
        self.state().place
    }

    /// Nobody has the starter's place from here on.
    pub(super) fn vacate(&self) {
        let mut state = self.state();
        state.place = Place::Empty;
        state.log.set_floor(None);
        drop(state);
        self.wake.notify_one();
    }

    /// Whether its starter's leaving has to end it.
    pub(super) fn is_abandoned(&self) -> bool {
        self.info.life == Life::Attached && self.place() == Place::Empty
    }

    pub(super) fn set_exit(&self, report: ExitReport) {
        self.state().exit = Some(report);
        *self.stdin() = Stdin::Closed;
        self.news.notify_waiters();
    }

    /// All output has been taken; nothing follows.
    pub(super) fn set_drained(&self) {
        let mut state = self.state();
        state.drained = true;
        state.log.settle();
        self.forget_unwanted(&mut state);
        drop(state);
        self.news.notify_waiters();
    }

    /// Output of an attached process is nobody's after the last reader.
    fn forget_unwanted(&self, state: &mut State) {
        if state.drained && state.readers == 0 && self.info.life == Life::Attached {
            let kept = matches!(state.place, Place::Kept { .. });
            if !kept {
                state.log.forget();
            }
        }
    }

    // What callers do.

    /// The starter's own reader.
    pub(super) fn starter(self: &Arc<Self>, phase: watch::Receiver<Phase>) -> Reader {
        let cursor = self.state().log.cursor(None);
        Reader::new(self.clone(), cursor, true, phase)
    }

    /// Another reader; `None` if it wants the starter's place and that is taken.
    pub(super) fn attach(
        self: &Arc<Self>,
        from: Option<StreamOffsets>,
        as_starter: bool,
        phase: watch::Receiver<Phase>,
    ) -> Option<Reader> {
        let mut state = self.state();
        let cursor = state.log.cursor(from);
        if as_starter {
            if state.place == Place::Taken {
                return None;
            }
            state.place = Place::Taken;
            state.log.set_floor(Some(cursor.at()));
        }
        drop(state);
        self.wake.notify_one();
        Some(Reader::new(self.clone(), cursor, as_starter, phase))
    }

    /// Waits for the process's end.
    pub(crate) async fn ended(&self) -> ExitReport {
        loop {
            let mut news = pin!(self.news.notified());
            news.as_mut().enable();
            if let Some(report) = self.state().exit {
                return report;
            }
            news.await;
        }
    }

    pub(crate) fn resize(&self, size: TerminalSize) -> Result<(), ResizeError> {
        let pid = self.pid();
        match &*self.stdin() {
            Stdin::Terminal(end) => terminal::resize(end.get(), size)
                .map_err(|source| ResizeError::Refused { pid, source }),
            _ => Err(ResizeError::NoTerminal(pid)),
        }
    }

    /// Takes the stdin to write to it.
    pub(crate) fn writer(self: &Arc<Self>) -> Result<Writer, StdinError> {
        let mut stdin = self.stdin();
        match std::mem::replace(&mut *stdin, Stdin::Lent) {
            Stdin::Pipe(pipe) => Ok(Writer::Pipe { pipe: Some(pipe), process: self.clone() }),
            Stdin::Terminal(terminal) => {
                *stdin = Stdin::Terminal(terminal.clone());
                Ok(Writer::Terminal(terminal))
            }
            Stdin::Lent => Err(StdinError::Busy(self.pid())),
            Stdin::Closed => {
                *stdin = Stdin::Closed;
                Err(StdinError::NotOpen(self.pid()))
            }
        }
    }
}

/// The right to write to a process. Dropped, it leaves stdin open for the next.
pub(crate) enum Writer {
    /// There is one writer of a pipe at a time.
    Pipe { pipe: Option<Descriptor>, process: Arc<Process> },
    /// Many may type at a terminal.
    Terminal(Arc<Descriptor>),
}

impl Writer {
    /// Writes what there is room for; waits for room. Safe to drop.
    pub(crate) async fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Pipe { pipe: Some(pipe), .. } => pipe.write(data).await,
            Self::Pipe { pipe: None, .. } => Err(io::ErrorKind::BrokenPipe.into()),
            Self::Terminal(terminal) => terminal.write(data).await,
        }
    }

    /// Closes stdin after what was written. A terminal stays: its end is typed.
    pub(crate) fn close(mut self) {
        if let Self::Pipe { pipe, process } = &mut self {
            *pipe = None;
            *process.stdin() = Stdin::Closed;
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Self::Pipe { pipe, process } = self
            && let Some(pipe) = pipe.take()
        {
            let mut stdin = process.stdin();
            if matches!(*stdin, Stdin::Lent) {
                *stdin = Stdin::Pipe(pipe);
            }
        }
    }
}

/// What a process does, as one reader learns it.
#[derive(Debug)]
pub(crate) enum Event {
    Output(StreamId, Bytes),
    Skipped(StreamOffsets),
    /// The last one.
    Exited(ExitReport),
    /// The last one before the agent replaces its program.
    HandedOver(StreamOffsets),
}

/// Follows a process's output. Dropped, it gives up the starter's place if it has that.
pub(crate) struct Reader {
    process: Arc<Process>,
    cursor: Cursor,
    is_starter: bool,
    finished: bool,
    /// `None` for a caller that cannot come back, and so is not handed over.
    phase: Option<watch::Receiver<Phase>>,
}

impl Reader {
    fn new(
        process: Arc<Process>,
        cursor: Cursor,
        is_starter: bool,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        process.state().readers += 1;
        Self { process, cursor, is_starter, finished: false, phase: Some(phase) }
    }

    pub(crate) fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Where it stands.
    pub(crate) fn at(&self) -> StreamOffsets {
        self.cursor.at()
    }

    /// Stays to the process's end whatever the agent is about to do.
    pub(crate) fn until_the_end(mut self) -> Self {
        self.phase = None;
        self
    }

    /// The next event; `None` after the last one. Safe to drop.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        if self.finished {
            return None;
        }
        let process = self.process.clone();
        loop {
            let mut news = pin!(process.news.notified());
            news.as_mut().enable();
            if self.phase.as_ref().is_some_and(|phase| *phase.borrow() != Phase::Serving) {
                return Some(self.hand_over());
            }
            if let Some(event) = self.take() {
                return Some(event);
            }
            match &mut self.phase {
                Some(phase) => tokio::select! {
                    () = news => {}
                    // The sender lives as long as the agent.
                    _ = phase.changed() => {}
                },
                None => news.await,
            }
        }
    }

    fn take(&mut self) -> Option<Event> {
        let mut state = self.process.state();
        if let Some(piece) = state.log.next(&mut self.cursor) {
            if self.is_starter {
                state.log.set_floor(Some(self.cursor.at()));
                drop(state);
                self.process.wake.notify_one();
            }
            return Some(match piece {
                Piece::Output(stream, data) => Event::Output(stream, data),
                Piece::Skipped(bytes) => Event::Skipped(bytes),
            });
        }
        let report = state.exit.filter(|_| state.drained)?;
        self.finished = true;
        Some(Event::Exited(report))
    }

    fn hand_over(&mut self) -> Event {
        if self.is_starter {
            let mut state = self.process.state();
            state.place = Place::Kept { until: Instant::now() + super::RETURN_TIME };
            drop(state);
            self.is_starter = false;
            self.process.wake.notify_one();
        }
        self.finished = true;
        Event::HandedOver(self.cursor.at())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.is_starter {
            self.process.vacate();
        }
        let mut state = self.process.state();
        state.readers -= 1;
        self.process.forget_unwanted(&mut state);
    }
}
