//! A command under way in a guest: its events, its stdin, its signals.

use aetherium_agent_proto::rpc::MAX_CHUNK_BYTES;
use aetherium_agent_proto::rpc::wire;
use aetherium_agent_proto::rpc::wire::__buffa::oneof::process_event::Event;
use aetherium_agent_proto::rpc::wire::__buffa::view;
use aetherium_agent_proto::{ExecSpec, ExitReport, SpawnErrorKind};
use bytes::Bytes;
use connectrpc::client::ServerStream;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::connection::Connection;
use crate::{AgentClient, AgentError};

/// How many pieces of input wait to be sent.
const STDIN_QUEUE: usize = 2;

type Events = ServerStream<Incoming, view::ProcessEventView<'static>>;

/// What a process does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessEvent {
    /// It wrote to stdout.
    Stdout(Bytes),
    /// It wrote to stderr.
    Stderr(Bytes),
    /// It ended. Nothing follows.
    Exited(ExitReport),
}

/// A running command. Dropped before [`ProcessEvent::Exited`], it is killed in the guest.
///
/// A process whose events are not read stops at its next write once about 1 MiB waits; others on
/// the same connection are not slowed.
pub struct Process {
    client: AgentClient,
    connection: Connection,
    events: Events,
    pid: u32,
    wants_stdin: bool,
    ended: bool,
}

/// An event as it comes off the wire.
enum WireEvent {
    Started(u32),
    Failed(SpawnErrorKind, String),
    Event(ProcessEvent),
}

/// Starts a command and waits for its first event.
pub(crate) async fn start(
    client: AgentClient,
    connection: Connection,
    spec: ExecSpec,
) -> Result<Process, AgentError> {
    let wants_stdin = spec.stdin;
    let started = connection.wire().start(spec.into()).await;
    let mut events = started.map_err(|e| connection.error("start", &e))?;
    match next_event(&connection, &mut events).await? {
        Some(WireEvent::Started(pid)) => {
            Ok(Process { client, connection, events, pid, wants_stdin, ended: false })
        }
        Some(WireEvent::Failed(kind, detail)) => Err(AgentError::Spawn { kind, detail }),
        Some(WireEvent::Event(event)) => Err(unexpected(&format!("{event:?} before the start"))),
        None => Err(cut_short(&connection)),
    }
}

/// Reads the next event this build knows.
async fn next_event(
    connection: &Connection,
    events: &mut Events,
) -> Result<Option<WireEvent>, AgentError> {
    loop {
        let message = events.message().await.map_err(|e| connection.error("start", &e))?;
        let Some(message) = message else { return Ok(None) };
        // Output is a slice of the message's own buffer: nothing is copied.
        let event = match &message.view().event {
            Some(view::oneof::process_event::Event::Stdout(data)) => {
                ProcessEvent::Stdout(message.bytes().slice_ref(data))
            }
            Some(view::oneof::process_event::Event::Stderr(data)) => {
                ProcessEvent::Stderr(message.bytes().slice_ref(data))
            }
            Some(_) => match message.to_owned_message().event {
                Some(Event::Started(started)) => return Ok(Some(WireEvent::Started(started.pid))),
                Some(Event::Failed(failed)) => {
                    let kind = failed.code.parse().unwrap_or(SpawnErrorKind::Other);
                    return Ok(Some(WireEvent::Failed(kind, failed.detail)));
                }
                Some(Event::Exited(exited)) => ProcessEvent::Exited(ExitReport::from(*exited)),
                _ => continue,
            },
            None => continue,
        };
        return Ok(Some(WireEvent::Event(event)));
    }
}

fn cut_short(connection: &Connection) -> AgentError {
    AgentError::ConnectionLost {
        transport: connection.transport(),
        detail: "the event stream ended before the process did".to_owned(),
    }
}

fn unexpected(detail: &str) -> AgentError {
    AgentError::Agent {
        call: "start",
        code: "unexpected_event".to_owned(),
        detail: detail.to_owned(),
    }
}

impl Process {
    /// Its id in the guest.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its stdin, once, if the command asked for one. Dropping it closes the pipe.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn stdin(&mut self) -> Option<Stdin> {
        std::mem::take(&mut self.wants_stdin).then(|| Stdin::open(&self.connection, self.pid))
    }

    /// The next event; `None` after [`ProcessEvent::Exited`]. Safe to drop and call again.
    ///
    /// # Errors
    /// [`AgentError::ConnectionLost`] or [`AgentError::VmEnded`] when no exit will ever come.
    pub async fn next(&mut self) -> Result<Option<ProcessEvent>, AgentError> {
        if self.ended {
            return Ok(None);
        }
        let event = next_event(&self.connection, &mut self.events);
        match self.client.unless_ended(event).await?? {
            Some(WireEvent::Event(event)) => {
                self.ended = matches!(event, ProcessEvent::Exited(_));
                Ok(Some(event))
            }
            Some(WireEvent::Started(_) | WireEvent::Failed(..)) => {
                Err(unexpected("a second start of one process"))
            }
            None => Err(cut_short(&self.connection)),
        }
    }

    /// A handle that signals the process, for use beside [`Process::next`].
    #[must_use]
    pub fn signaller(&self) -> Signaller {
        Signaller {
            client: self.client.clone(),
            connection: self.connection.clone(),
            pid: self.pid,
        }
    }
}

/// Sends signals to a process's group. Does not keep the process alive.
#[derive(Clone)]
pub struct Signaller {
    client: AgentClient,
    connection: Connection,
    pid: u32,
}

impl Signaller {
    /// Sends a signal, by number, to the process and all of its group.
    ///
    /// # Errors
    /// [`AgentError::NoSuchProcess`] once it has ended; any error of calling.
    pub async fn signal(&self, signal: i32) -> Result<(), AgentError> {
        let request =
            wire::SendSignalRequest { pid: self.pid, signal, ..wire::SendSignalRequest::default() };
        let wire = self.connection.wire();
        let answer = self.client.call("signal", async {
            wire.send_signal(request).await.map_err(|e| self.connection.error("signal", &e))
        });
        answer.await.map(|_| ())
    }
}

/// A process's stdin.
pub struct Stdin {
    pid: u32,
    /// Gone once closed.
    pieces: Option<mpsc::Sender<wire::StdinRequest>>,
    /// The call that carries the pieces; it ends when the agent has closed the pipe.
    call: Option<JoinHandle<Result<(), AgentError>>>,
}

impl Stdin {
    fn open(connection: &Connection, pid: u32) -> Self {
        let (pieces, mut queue) = mpsc::channel::<wire::StdinRequest>(STDIN_QUEUE);
        // The agent learns from the first piece whose stdin this is, also if no input ever comes.
        let first = wire::StdinRequest { pid, ..wire::StdinRequest::default() };
        let connection = connection.clone();
        let call = tokio::spawn(async move {
            let mut first = Some(first);
            let stream = futures::stream::poll_fn(move |cx| match first.take() {
                Some(first) => std::task::Poll::Ready(Some(first)),
                None => queue.poll_recv(cx),
            });
            let outcome = connection.wire().write_stdin(stream).await;
            outcome.map(|_| ()).map_err(|e| connection.error("write_stdin", &e))
        });
        Self { pid, pieces: Some(pieces), call: Some(call) }
    }

    /// Sends input; waits while the process is slow to read.
    ///
    /// # Errors
    /// [`AgentError::StdinClosed`] or [`AgentError::NoSuchProcess`] when the process takes no more.
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), AgentError> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MAX_CHUNK_BYTES));
            let request = wire::StdinRequest {
                pid: self.pid,
                data: piece.into(),
                ..wire::StdinRequest::default()
            };
            let sent = match &self.pieces {
                Some(pieces) => pieces.send(request).await.is_ok(),
                None => false,
            };
            if !sent {
                self.pieces = None;
                return Err(self.why_closed().await);
            }
        }
        Ok(())
    }

    /// Closes the pipe after all input has been delivered.
    ///
    /// # Errors
    /// As [`Stdin::write`], when the process did not take everything.
    pub async fn close(mut self) -> Result<(), AgentError> {
        self.pieces = None;
        match self.call.take() {
            Some(call) => call.await.unwrap_or_else(|_| Err(closed("the call was stopped"))),
            None => Err(closed("it failed before")),
        }
    }

    async fn why_closed(&mut self) -> AgentError {
        match self.call.take() {
            Some(call) => match call.await {
                Ok(Err(error)) => error,
                Ok(Ok(())) | Err(_) => closed("the agent closed it"),
            },
            None => closed("it failed before"),
        }
    }
}

fn closed(detail: &str) -> AgentError {
    AgentError::StdinClosed { detail: detail.to_owned() }
}
