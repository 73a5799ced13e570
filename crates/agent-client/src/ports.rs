//! TCP ports of a guest: `client.ports().connect(8080)`.

use std::time::Duration;

use aetherium_agent_proto::ports::PortEvent;
use aetherium_agent_proto::rpc::MAX_CHUNK_BYTES;
use aetherium_agent_proto::rpc::wire;
use aetherium_agent_proto::rpc::wire::__buffa::oneof::tunnel_input::Part as Input;
use aetherium_agent_proto::rpc::wire::__buffa::view;
use aetherium_agent_proto::rpc::wire::__buffa::view::oneof::tunnel_output::Part as Output;
use bytes::Bytes;
use connectrpc::client::{BidiRecvHalf, BidiSendHalf, ServerStream};
use hyper::body::Incoming;

use crate::connection::Connection;
use crate::{AgentClient, AgentError};

/// The ports of a guest.
#[derive(Clone)]
pub struct Ports {
    client: AgentClient,
}

impl Ports {
    pub(crate) fn new(client: AgentClient) -> Self {
        Self { client }
    }

    /// Connects to a port of the guest's own addresses.
    ///
    /// # Errors
    /// [`AgentError::Refused`] with `connection_refused` when nothing listens there; any error of
    /// dialling or calling.
    pub async fn connect(&self, port: u16) -> Result<Tunnel, AgentError> {
        let connection = self.client.connection().await?;
        let open = async {
            let call = connection.ports().tunnel().await;
            let (mut input, mut output) =
                call.map_err(|e| connection.error("tunnel", &e))?.into_split();
            let open = wire::TunnelOpen { port: port.into(), ..wire::TunnelOpen::default() };
            // If the agent ends the call at once, it is its answer that tells why.
            let _ = input.send(message(Input::Open(Box::new(open)))).await;
            match output.message().await.map_err(|e| connection.error("tunnel", &e))? {
                Some(_) => Ok((input, output)),
                None => Err(cut_short(&connection)),
            }
        };
        let (input, output) = self.client.call("tunnel", open).await?;
        let connection = connection.clone();
        Ok(Tunnel {
            reader: TunnelReader {
                client: self.client.clone(),
                connection: connection.clone(),
                output,
                ended: false,
            },
            writer: TunnelWriter { client: self.client.clone(), connection, input },
        })
    }

    /// Tells which ports are listened on: those of now, [`PortEvent::CaughtUp`], then each change.
    /// The guest looks every half second, or as often as `every` says.
    ///
    /// # Errors
    /// Any [`AgentError`] of dialling or calling.
    pub async fn watch(&self, every: Option<Duration>) -> Result<PortWatch, AgentError> {
        let request = wire::WatchListeningRequest {
            every_ms: every.map(|it| u32::try_from(it.as_millis()).unwrap_or(u32::MAX)),
            ..wire::WatchListeningRequest::default()
        };
        let connection = self.client.connection().await?;
        let wire = connection.ports();
        let events = wire.watch_listening(request);
        let events = self.client.unary(&connection, "watch_listening", events).await?;
        Ok(PortWatch { client: self.client.clone(), connection, events })
    }
}

fn message(part: Input) -> wire::TunnelInput {
    wire::TunnelInput { part: Some(part), ..wire::TunnelInput::default() }
}

fn cut_short(connection: &Connection) -> AgentError {
    AgentError::ConnectionLost {
        transport: connection.transport(),
        detail: "the tunnel ended before its connection did".to_owned(),
    }
}

/// A TCP connection to a guest's port, as two halves that may end each on its own.
pub struct Tunnel {
    /// What the guest's side says. Dropped, the connection is closed both ways.
    pub reader: TunnelReader,
    /// What is said to it. Dropped, it is ended as by [`TunnelWriter::end`].
    pub writer: TunnelWriter,
}

/// The half of a tunnel that is read.
pub struct TunnelReader {
    client: AgentClient,
    connection: Connection,
    output: BidiRecvHalf<Incoming, view::TunnelOutputView<'static>>,
    ended: bool,
}

impl TunnelReader {
    /// The next bytes; `None` when the guest's side has ended.
    ///
    /// # Errors
    /// [`AgentError::Refused`] with `connection_reset` when the guest's side broke; any error of the
    /// connection to the agent.
    pub async fn next(&mut self) -> Result<Option<Bytes>, AgentError> {
        while !self.ended {
            let part = self.client.unless_ended(self.output.message()).await?;
            let part = part.map_err(|e| self.connection.error("tunnel", &e))?;
            let Some(part) = part else { return Err(cut_short(&self.connection)) };
            let part: connectrpc::StreamMessage<wire::TunnelOutput> = part;
            match &part.view().part {
                Some(Output::Data(data)) => return Ok(Some(part.bytes().slice_ref(data))),
                Some(Output::End(_)) => self.ended = true,
                Some(Output::Opened(_)) | None => {}
            }
        }
        Ok(None)
    }
}

/// The half of a tunnel that is written.
pub struct TunnelWriter {
    client: AgentClient,
    connection: Connection,
    input: BidiSendHalf<wire::TunnelInput>,
}

impl TunnelWriter {
    /// Sends bytes; waits while the guest's side is slow to read.
    ///
    /// # Errors
    /// When the tunnel is over; the reader tells why.
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), AgentError> {
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(MAX_CHUNK_BYTES));
            self.send(Input::Data(chunk.into())).await?;
        }
        Ok(())
    }

    /// Says that nothing follows. The guest's side may go on.
    ///
    /// # Errors
    /// As [`TunnelWriter::write`].
    pub async fn end(mut self) -> Result<(), AgentError> {
        self.send(Input::End(Box::default())).await
    }

    async fn send(&mut self, part: Input) -> Result<(), AgentError> {
        let sent = self.client.unless_ended(self.input.send(message(part))).await?;
        sent.map_err(|e| self.connection.error("tunnel", &e))
    }
}

/// A guest's ports being watched. Dropped, they are watched no longer.
pub struct PortWatch {
    client: AgentClient,
    connection: Connection,
    events: ServerStream<Incoming, view::ListeningEventView<'static>>,
}

impl PortWatch {
    /// The next event. Safe to drop and call again.
    ///
    /// # Errors
    /// Any [`AgentError`] of calling; the watch never ends by itself.
    pub async fn next(&mut self) -> Result<PortEvent, AgentError> {
        loop {
            let event = self.client.unless_ended(self.events.message()).await?;
            let event = event.map_err(|e| self.connection.error("watch_listening", &e))?;
            let event = event.ok_or_else(|| cut_short(&self.connection))?;
            if let Some(event) = event.to_owned_message().read() {
                return Ok(event);
            }
        }
    }
}
