//! One modelled guest and the agent that answers for it.
//!
//! The agent greets, lets commands take their time and end well, and shuts down. What else can be asked
//! of an agent is refused.

use super::model::Times;
use crate::VmmExit;
use aetherium_agent_proto::{
    AgentTransport, ExitReport, ExitStatus, Hello, PROTOCOL,
    rpc::{self, OutgoingEvent, wire},
};
use bytes::Bytes;
use connectrpc::{
    ConnectError, ConnectRpcService, Encodable, InboundStream, RequestContext, Response, Router,
    ServiceRequest, ServiceResult, ServiceStream,
};
use futures::stream;
use hyper::server::conn::http2::Builder;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::UnixStream,
    sync::watch,
    time::{Instant, sleep, timeout},
};

/// What a command prints.
const OUTPUT: Bytes = Bytes::from_static(b"simulated\n");
/// How long what was answered last may take to reach the host once the guest has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A modelled guest.
pub(super) struct Guest {
    times: Times,
    launched: Instant,
    commands: AtomicU32,
    exit: watch::Sender<Option<VmmExit>>,
}

impl Guest {
    /// A guest whose boot begins now.
    pub(super) fn booting(times: Times) -> Self {
        let (launched, commands) = (Instant::now(), AtomicU32::new(0));
        Self { times, launched, commands, exit: watch::Sender::new(None) }
    }

    /// Whether its agent listens: it has booted and not ended.
    pub(super) fn listens(&self) -> bool {
        self.launched.elapsed() >= self.times.boot && self.exit.borrow().is_none()
    }

    /// Ends it. How it ended first stays.
    pub(super) fn end(&self, exit: VmmExit) {
        self.exit.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(exit);
            first
        });
    }

    /// Resolves once it has ended.
    pub(super) async fn ended(&self) -> VmmExit {
        let mut exit = self.exit.subscribe();
        // The sender is this guest's own.
        let ended = exit.wait_for(Option::is_some).await;
        ended.ok().and_then(|exit| *exit).unwrap_or(VmmExit::Unknown)
    }

    /// Answers on one connection until the host leaves or the guest ends.
    pub(super) async fn serve(self: Arc<Self>, socket: UnixStream) {
        let agent = Arc::new(Agent(Arc::clone(&self)));
        let verbs = ConnectRpcService::new(Router::new().add_service(agent));
        let mut session = pin!(
            Builder::new(TokioExecutor::new())
                .max_frame_size(rpc::MAX_FRAME_BYTES)
                .initial_stream_window_size(rpc::GUEST_STREAM_WINDOW)
                .max_concurrent_streams(rpc::MAX_STREAMS)
                .serve_connection(TokioIo::new(socket), TowerToHyperService::new(verbs))
        );
        tokio::select! {
            _ = session.as_mut() => return,
            _ = self.ended() => {}
        }
        session.as_mut().graceful_shutdown();
        let _ = timeout(LAST_WORDS, session).await;
    }
}

/// A guest's agent.
struct Agent(Arc<Guest>);

/// Its agent knows no more than what benchmarks ask for.
fn refused<T>(verb: &str) -> ServiceResult<T> {
    Err(ConnectError::unimplemented(format!("a modelled guest cannot {verb}")))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl wire::Agent for Agent {
    async fn hello<'a>(
        &'a self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::HelloRequest>,
    ) -> ServiceResult<impl Encodable<wire::HelloResponse> + Send + use<'a>> {
        let booted = millis(self.0.times.boot);
        Response::ok(wire::HelloResponse::from(&Hello {
            protocol: PROTOCOL,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: String::new(),
            is_init: true,
            uptime_ms: millis(self.0.launched.elapsed()),
            started_uptime_ms: booted,
            listening_uptime_ms: booted,
            transports: vec![AgentTransport::Vsock],
            generation: 0,
            upgrade_failure: None,
        }))
    }

    async fn start(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::StartRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<wire::ProcessEvent> + Send + use<>>> {
        let number = self.0.commands.fetch_add(1, Ordering::Relaxed);
        let takes = self.0.times.command(number);
        let started = OutgoingEvent::started(number.saturating_add(2));
        let ended = OutgoingEvent::exited(&ExitReport {
            status: ExitStatus::Code(0),
            wall_ms: millis(takes),
            user_ms: 0,
            sys_ms: 0,
            max_rss_kib: 0,
        });
        let life = [
            (Duration::ZERO, started),
            (Duration::ZERO, OutgoingEvent::Stdout(OUTPUT)),
            (takes, ended),
        ];
        let events = stream::unfold(life.into_iter(), async |mut life| {
            let (after, event) = life.next()?;
            sleep(after).await;
            Some((Ok(event), life))
        });
        Response::ok(Box::pin(events) as ServiceStream<OutgoingEvent>)
    }

    async fn attach(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::AttachRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<wire::ProcessEvent> + Send + use<>>> {
        refused::<ServiceStream<OutgoingEvent>>("attach to a command")
    }

    async fn wait<'a>(
        &'a self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::WaitRequest>,
    ) -> ServiceResult<impl Encodable<wire::WaitResponse> + Send + use<'a>> {
        refused::<wire::WaitResponse>("wait for a command")
    }

    async fn resize_terminal<'a>(
        &'a self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::ResizeTerminalRequest>,
    ) -> ServiceResult<impl Encodable<wire::ResizeTerminalResponse> + Send + use<'a>> {
        refused::<wire::ResizeTerminalResponse>("resize a terminal")
    }

    async fn write_stdin<'a>(
        &'a self,
        _context: RequestContext,
        _requests: InboundStream<wire::StdinRequest>,
    ) -> ServiceResult<impl Encodable<wire::StdinResponse> + Send + use<'a>> {
        refused::<wire::StdinResponse>("feed a command")
    }

    async fn send_signal<'a>(
        &'a self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::SendSignalRequest>,
    ) -> ServiceResult<impl Encodable<wire::SendSignalResponse> + Send + use<'a>> {
        refused::<wire::SendSignalResponse>("signal a command")
    }

    async fn list<'a>(
        &'a self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::ListRequest>,
    ) -> ServiceResult<impl Encodable<wire::ListResponse> + Send + use<'a>> {
        refused::<wire::ListResponse>("list its commands")
    }

    async fn shutdown<'a>(
        &'a self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::ShutdownRequest>,
    ) -> ServiceResult<impl Encodable<wire::ShutdownResponse> + Send + use<'a>> {
        self.0.end(VmmExit::Code(0));
        Response::ok(wire::ShutdownResponse::default())
    }

    async fn upgrade<'a>(
        &'a self,
        _context: RequestContext,
        _requests: InboundStream<wire::UpgradeRequest>,
    ) -> ServiceResult<impl Encodable<wire::UpgradeResponse> + Send + use<'a>> {
        refused::<wire::UpgradeResponse>("replace its agent")
    }
}
