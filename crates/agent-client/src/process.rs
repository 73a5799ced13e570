//! A command in a guest as its caller follows it: its events, its signals.
//!
//! ```text
//! live ──handed over──► returning ──attached again──► live ──► exited
//! ```
//!
//! An agent that replaces its program ends its streams at a known place; a process comes back to that
//! place by itself, and its caller sees one unbroken stream.

use std::time::Duration;

use aetherium_agent_proto::rpc::wire;
use aetherium_agent_proto::rpc::wire::__buffa::oneof::process_event::Event;
use aetherium_agent_proto::rpc::wire::__buffa::view;
use aetherium_agent_proto::{
    ExecSpec, ExitReport, ProcessSelector, SpawnErrorKind, StreamOffsets, TerminalSize,
};
use bytes::Bytes;
use connectrpc::client::ServerStream;
use hyper::body::Incoming;
use tokio::task::JoinHandle;

use crate::connection::Connection;
use crate::stdin::Stdin;
use crate::{AgentClient, AgentError};

/// How long a stream that was handed over tries to come back. The agent keeps its place longer.
const RETURN_TIME: Duration = Duration::from_secs(10);

type Events = ServerStream<Incoming, view::ProcessEventView<'static>>;

/// What a process does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessEvent {
    /// It wrote to stdout, or its terminal was written to.
    Stdout(Bytes),
    /// It wrote to stderr.
    Stderr(Bytes),
    /// So many bytes of each stream were dropped before this reader took them. The starter's stream
    /// never has this: the process waits for it.
    Skipped(StreamOffsets),
    /// It ended. Nothing follows.
    Exited(ExitReport),
}

/// Whose place to take when following a process that was started before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The starter's: the process waits for this reader and, unless it is detached, ends when this
    /// reader leaves.
    Starter,
    /// One beside it: the process does not wait, and what is missed is told.
    Viewer,
}

/// A command that is followed. The starter's, dropped before [`ProcessEvent::Exited`], kills it in
/// the guest unless it is detached.
///
/// A process whose starter does not read stops at its next write once about 1 MiB waits; others on
/// the same connection are not slowed.
pub struct Process {
    client: AgentClient,
    link: Link,
    role: Role,
    pid: u32,
    /// Where the next output begins.
    at: StreamOffsets,
    wants_stdin: bool,
}

/// How events come.
enum Link {
    Live(Box<Live>),
    /// The agent is replacing its program.
    Returning(JoinHandle<Result<Live, AgentError>>),
    Ended,
}

struct Live {
    connection: Connection,
    events: Events,
}

/// An event as it comes off the wire.
enum WireEvent {
    Started(u32),
    Failed(SpawnErrorKind, String),
    Attached { pid: u32, at: StreamOffsets, terminal: bool },
    HandedOver,
    Event(ProcessEvent),
}

/// Starts a command and waits for its first event.
pub(crate) async fn start(
    client: AgentClient,
    connection: Connection,
    spec: ExecSpec,
) -> Result<Process, AgentError> {
    connection.require("start", spec.needs())?;
    let wants_stdin = spec.stdio != aetherium_agent_proto::Stdio::Output;
    let started = connection.wire().start(spec.into()).await;
    let events = started.map_err(|e| connection.error("start", &e))?;
    let mut live = Live { connection, events };
    match live.next().await? {
        Some(WireEvent::Started(pid)) => Ok(Process {
            client,
            link: Link::Live(Box::new(live)),
            role: Role::Starter,
            pid,
            at: StreamOffsets::default(),
            wants_stdin,
        }),
        Some(WireEvent::Failed(kind, detail)) => Err(AgentError::Spawn { kind, detail }),
        Some(_) => Err(unexpected("start", "an event before the start")),
        None => Err(cut_short(&live.connection)),
    }
}

/// Follows a process that was started before.
pub(crate) async fn attach(
    client: AgentClient,
    connection: Connection,
    selector: ProcessSelector,
    from: Option<StreamOffsets>,
    role: Role,
) -> Result<Process, AgentError> {
    let (live, pid, at, terminal) = open(connection, selector, from, role).await?;
    let link = Link::Live(Box::new(live));
    Ok(Process { client, link, role, pid, at, wants_stdin: terminal })
}

async fn open(
    connection: Connection,
    selector: ProcessSelector,
    from: Option<StreamOffsets>,
    role: Role,
) -> Result<(Live, u32, StreamOffsets, bool), AgentError> {
    connection.require("attach", crate::connection::SINCE_1_1)?;
    let request = wire::AttachRequest {
        process: wire::ProcessSelector::from(selector).into(),
        from: from.map(wire::StreamOffsets::from).into(),
        as_starter: role == Role::Starter,
        ..wire::AttachRequest::default()
    };
    let attached = connection.wire().attach(request).await;
    let events = attached.map_err(|e| connection.error("attach", &e))?;
    let mut live = Live { connection, events };
    match live.next().await? {
        Some(WireEvent::Attached { pid, at, terminal }) => Ok((live, pid, at, terminal)),
        Some(_) => Err(unexpected("attach", "an event before the place it begins at")),
        None => Err(cut_short(&live.connection)),
    }
}

/// Comes back after a handover. What was read before ends at `at`, so nothing may be missing.
async fn come_back(
    client: AgentClient,
    left: Connection,
    pid: u32,
    at: StreamOffsets,
    role: Role,
) -> Result<Live, AgentError> {
    let work = async {
        let mut connection = client.redial(&left).await?;
        loop {
            match open(connection.clone(), pid.into(), Some(at), role).await {
                Ok((live, _, now, _)) if now == at || role == Role::Viewer => return Ok(live),
                Ok((_, _, now, _)) => {
                    let detail = format!("process {pid} came back at {now:?} and not at {at:?}");
                    return Err(unexpected("attach", &detail));
                }
                // The connection went with the old program.
                Err(AgentError::ConnectionLost { .. }) => {
                    connection = client.redial(&connection).await?;
                }
                Err(error) => return Err(error),
            }
        }
    };
    match tokio::time::timeout(RETURN_TIME, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(AgentError::DeadlineExceeded { call: "attach", after: RETURN_TIME }),
    }
}

impl Live {
    /// Reads the next event this build knows.
    async fn next(&mut self) -> Result<Option<WireEvent>, AgentError> {
        loop {
            let message = self.events.message().await;
            let message = message.map_err(|e| self.connection.error("start", &e))?;
            let Some(message) = message else { return Ok(None) };
            // Output is a slice of the message's own buffer: nothing is copied.
            let event = match &message.view().event {
                Some(view::oneof::process_event::Event::Stdout(data)) => {
                    ProcessEvent::Stdout(message.bytes().slice_ref(data))
                }
                Some(view::oneof::process_event::Event::Stderr(data)) => {
                    ProcessEvent::Stderr(message.bytes().slice_ref(data))
                }
                Some(_) => match message.to_owned_message().event.and_then(rare) {
                    Some(event) => return Ok(Some(event)),
                    None => continue,
                },
                None => continue,
            };
            return Ok(Some(WireEvent::Event(event)));
        }
    }
}

/// Reads an event that is not output; `None` for one this build does not know.
fn rare(event: Event) -> Option<WireEvent> {
    Some(match event {
        Event::Started(started) => WireEvent::Started(started.pid),
        Event::Failed(failed) => {
            let kind = failed.code.parse().unwrap_or(SpawnErrorKind::Other);
            WireEvent::Failed(kind, failed.detail)
        }
        Event::Exited(exited) => WireEvent::Event(ProcessEvent::Exited(ExitReport::from(*exited))),
        Event::Attached(attached) => WireEvent::Attached {
            pid: attached.pid,
            at: attached.offsets.into_option().unwrap_or_default().into(),
            terminal: attached.terminal,
        },
        Event::Skipped(skipped) => {
            let bytes = skipped.bytes.into_option().unwrap_or_default();
            WireEvent::Event(ProcessEvent::Skipped(bytes.into()))
        }
        Event::HandedOver(_) => WireEvent::HandedOver,
        Event::Stdout(_) | Event::Stderr(_) => return None,
    })
}

fn cut_short(connection: &Connection) -> AgentError {
    AgentError::ConnectionLost {
        transport: connection.transport(),
        detail: "the event stream ended before the process did".to_owned(),
    }
}

fn unexpected(call: &'static str, detail: &str) -> AgentError {
    let code = "unexpected_event".to_owned();
    AgentError::Agent { call, code, detail: detail.to_owned() }
}

impl Process {
    /// Its id in the guest.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where its next output begins in each stream. After an attach: how much came before it.
    #[must_use]
    pub fn offsets(&self) -> StreamOffsets {
        self.at
    }

    /// Its stdin, once, if the command asked for one. Dropping it closes the pipe; a terminal stays.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn stdin(&mut self) -> Option<Stdin> {
        std::mem::take(&mut self.wants_stdin)
            .then(|| Stdin::open(&self.client, self.connection(), self.pid))
    }

    fn connection(&self) -> Option<Connection> {
        match &self.link {
            // The events of a connection that is closing can still be read, and nothing be sent.
            Link::Live(live) if live.connection.is_open() => Some(live.connection.clone()),
            Link::Live(_) | Link::Returning(_) | Link::Ended => None,
        }
    }

    /// The next event; `None` after [`ProcessEvent::Exited`]. Safe to drop and call again.
    ///
    /// # Errors
    /// [`AgentError::ConnectionLost`] or [`AgentError::VmEnded`] when no exit will ever come.
    pub async fn next(&mut self) -> Result<Option<ProcessEvent>, AgentError> {
        let client = self.client.clone();
        client.unless_ended(self.follow()).await?
    }

    async fn follow(&mut self) -> Result<Option<ProcessEvent>, AgentError> {
        loop {
            match &mut self.link {
                Link::Ended => return Ok(None),
                Link::Live(live) => match live.next().await? {
                    Some(WireEvent::Event(event)) => return Ok(Some(self.note(event))),
                    Some(WireEvent::HandedOver) => {
                        let connection = live.connection.clone();
                        self.come_back(connection);
                    }
                    Some(_) => return Err(unexpected("start", "a second start of one process")),
                    None => return Err(cut_short(&live.connection)),
                },
                Link::Returning(task) => {
                    let outcome = task.await;
                    match outcome {
                        Ok(Ok(live)) => self.link = Link::Live(Box::new(live)),
                        Ok(Err(error)) => {
                            self.link = Link::Ended;
                            return Err(error);
                        }
                        Err(_) => {
                            self.link = Link::Ended;
                            return Err(unexpected("attach", "the way back was stopped"));
                        }
                    }
                }
            }
        }
    }

    /// In a task of its own: a caller that stops waiting must not lose the process.
    fn come_back(&mut self, left: Connection) {
        let (client, pid, at, role) = (self.client.clone(), self.pid, self.at, self.role);
        self.link = Link::Returning(tokio::spawn(come_back(client, left, pid, at, role)));
    }

    /// Keeps the place up to date.
    fn note(&mut self, event: ProcessEvent) -> ProcessEvent {
        match &event {
            ProcessEvent::Stdout(data) => self.at.stdout += data.len() as u64,
            ProcessEvent::Stderr(data) => self.at.stderr += data.len() as u64,
            ProcessEvent::Skipped(bytes) => {
                self.at.stdout += bytes.stdout;
                self.at.stderr += bytes.stderr;
            }
            ProcessEvent::Exited(_) => self.link = Link::Ended,
        }
        event
    }

    /// A handle that signals the process, for use beside [`Process::next`].
    #[must_use]
    pub fn signaller(&self) -> Signaller {
        Signaller { client: self.client.clone(), pid: self.pid }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Link::Returning(task) = &self.link {
            task.abort();
        }
    }
}

/// Sends signals to a process's group. Does not keep the process alive.
#[derive(Clone)]
pub struct Signaller {
    client: AgentClient,
    pid: u32,
}

impl Signaller {
    /// Sends a signal, by number, to the process and all of its group.
    ///
    /// # Errors
    /// [`AgentError::NoSuchProcess`] once it has ended; any error of calling.
    pub async fn signal(&self, signal: i32) -> Result<(), AgentError> {
        self.client.signal(self.pid, signal).await
    }

    /// Gives the process's terminal a new size.
    ///
    /// # Errors
    /// [`AgentError::NoSuchProcess`] once it has ended; any error of calling.
    pub async fn resize(&self, size: TerminalSize) -> Result<(), AgentError> {
        self.client.resize(self.pid, size).await
    }
}
