//! One multiplexed connection to an agent.
//!
//! Owns the HTTP/2 session and the task that drives it; the task ends when the last user of the
//! connection is gone. Must never dial: it is given a socket that is already open.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use aetherium_agent_proto::rpc::{self, wire};
use aetherium_agent_proto::{AgentTransport, Hello, PROTOCOL, ProtocolVersion, Token};
use connectrpc::client::{BoxFuture, ClientBody, ClientConfig, ClientTransport};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

use crate::AgentError;

/// The most bytes of one stream that wait to be sent.
pub(crate) const SEND_BUFFER: usize = 256 * 1024;

/// The protocol that brought detached processes, terminals, attaching and upgrades.
pub(crate) const SINCE_1_1: ProtocolVersion = ProtocolVersion { major: 1, minor: 1 };

/// An open connection. Clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    sender: SendRequest<ClientBody>,
    authorization: Option<HeaderValue>,
    transport: AgentTransport,
    endpoint: String,
    /// What the agent speaks, once it has been greeted.
    protocol: OnceLock<ProtocolVersion>,
    driver: JoinHandle<()>,
    /// Whether somebody was given it since it was last asked whether it rests.
    used: AtomicBool,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

pub(crate) type WireClient = wire::AgentClient<Connection>;
pub(crate) type WireFiles = wire::FilesClient<Connection>;
pub(crate) type WirePorts = wire::PortsClient<Connection>;
pub(crate) type WireSystem = wire::SystemClient<Connection>;

impl Connection {
    /// Opens an HTTP/2 session over a socket. A peer that is silent for `silence` ends it.
    pub(crate) async fn open<S>(
        socket: S,
        transport: AgentTransport,
        endpoint: String,
        token: Option<&Token>,
        silence: Duration,
    ) -> Result<Self, hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, driver) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_frame_size(rpc::MAX_FRAME_BYTES)
            .initial_stream_window_size(rpc::HOST_STREAM_WINDOW)
            .initial_connection_window_size(rpc::connection_window(rpc::HOST_STREAM_WINDOW))
            .max_send_buf_size(SEND_BUFFER)
            // Asked early, so that most of the time is there to answer.
            .keep_alive_interval(silence / 5)
            .keep_alive_timeout(silence * 7 / 10)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(socket))
            .await?;
        // A failed session shows in every stream it carried; there is nobody else to tell.
        let driver = tokio::spawn(async move {
            let _ = driver.await;
        });
        let authorization = token.and_then(bearer);
        let protocol = OnceLock::new();
        let used = AtomicBool::new(true);
        let shared = Shared { sender, authorization, transport, endpoint, protocol, driver, used };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub(crate) fn transport(&self) -> AgentTransport {
        self.shared.transport
    }

    /// Whether a new call can still be made.
    pub(crate) fn is_open(&self) -> bool {
        !self.shared.sender.is_closed()
    }

    /// Another holder of it, who is about to use it.
    pub(crate) fn in_use(&self) -> Self {
        self.shared.used.store(true, Ordering::Relaxed);
        self.clone()
    }

    /// Whether only the caller has it, and nobody was given it since this was last asked.
    pub(crate) fn rests(&self) -> bool {
        Arc::strong_count(&self.shared) == 1 && !self.shared.used.swap(false, Ordering::Relaxed)
    }

    /// It, without keeping it open.
    pub(crate) fn downgrade(&self) -> WeakConnection {
        WeakConnection(Arc::downgrade(&self.shared))
    }

    /// The generated client over this connection.
    pub(crate) fn wire(&self) -> WireClient {
        wire::AgentClient::new(self.clone(), config())
    }

    /// The generated client of the files' service.
    pub(crate) fn files(&self) -> WireFiles {
        wire::FilesClient::new(self.clone(), config())
    }

    /// The generated client of the ports' service.
    pub(crate) fn ports(&self) -> WirePorts {
        wire::PortsClient::new(self.clone(), config())
    }

    /// The generated client of the machine's service.
    pub(crate) fn system(&self) -> WireSystem {
        wire::SystemClient::new(self.clone(), config())
    }

    /// Greets the agent.
    ///
    /// # Errors
    /// [`AgentError::Incompatible`] when its protocol is another one, else what the call met.
    pub(crate) async fn hello(&self) -> Result<Hello, AgentError> {
        let request = wire::HelloRequest {
            protocol_major: PROTOCOL.major,
            protocol_minor: PROTOCOL.minor,
            ..wire::HelloRequest::default()
        };
        let answer = self.wire().hello(request).await.map_err(|e| self.error("hello", &e))?;
        let hello = Hello::from(answer.into_owned());
        if PROTOCOL.is_compatible_with(hello.protocol) {
            // One agent answers all greetings of a connection.
            let _ = self.shared.protocol.set(hello.protocol);
            Ok(hello)
        } else {
            Err(AgentError::Incompatible { ours: PROTOCOL, theirs: hello.protocol })
        }
    }

    /// Makes sure that the agent knows what is about to be asked of it.
    ///
    /// # Errors
    /// [`AgentError::Unsupported`] when it is older.
    pub(crate) fn require(
        &self,
        call: &'static str,
        needs: ProtocolVersion,
    ) -> Result<(), AgentError> {
        match self.shared.protocol.get() {
            Some(speaks) if *speaks < needs => {
                Err(AgentError::Unsupported { call, needs, speaks: *speaks })
            }
            _ => Ok(()),
        }
    }

    /// Whether both are the same connection.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Reads a failed call on this connection.
    pub(crate) fn error(&self, call: &'static str, error: &connectrpc::ConnectError) -> AgentError {
        AgentError::from_wire(call, &self.shared.endpoint, self.shared.transport, error)
    }
}

/// A connection that is not kept open by this.
pub(crate) struct WeakConnection(Weak<Shared>);

impl WeakConnection {
    /// Whether `other` is this connection.
    pub(crate) fn is(&self, other: &Connection) -> bool {
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(&other.shared))
    }
}

fn config() -> ClientConfig {
    ClientConfig::new(Uri::from_static("http://agent"))
        .with_default_max_message_size(rpc::MAX_MESSAGE_BYTES)
}

/// A token holds visible ASCII alone, so it always makes a header.
fn bearer(token: &Token) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl ClientTransport for Connection {
    type ResponseBody = Incoming;
    type Error = hyper::Error;

    fn send(
        &self,
        mut request: Request<ClientBody>,
    ) -> BoxFuture<'static, Result<Response<Incoming>, hyper::Error>> {
        if let Some(value) = &self.shared.authorization {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        let mut sender = self.shared.sender.clone();
        Box::pin(async move { sender.send_request(request).await })
    }
}
