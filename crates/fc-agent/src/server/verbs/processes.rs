//! The `Agent` service: greeting, processes, the end.
//!
//! An output stream is pulled by its caller: what is not read is not produced.

use std::sync::Arc;

use aetherium_agent_proto::rpc::{OutgoingEvent, wire};
use connectrpc::{
    ConnectError, Encodable, InboundStream, RequestContext, Response, ServiceRequest,
    ServiceResult, ServiceStream,
};
use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::exec::{self, ChildEvent, Running, SignalError};
use crate::server::Agent;

/// The service.
pub(super) struct Processes {
    pub(super) agent: Arc<Agent>,
}

impl wire::Agent for Processes {
    async fn hello<'a>(
        &'a self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::HelloRequest>,
    ) -> ServiceResult<impl Encodable<wire::HelloResponse> + Send + use<'a>> {
        Response::ok(wire::HelloResponse::from(&self.agent.hello()))
    }

    async fn start(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::StartRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<wire::ProcessEvent> + Send + use<>>> {
        let spec = request.to_owned_message().into();
        let events: ServiceStream<OutgoingEvent> = match exec::start(self.agent.children(), spec) {
            Ok(running) => Box::pin(follow(running)),
            Err(error) => {
                let failed = OutgoingEvent::failed(error.kind().code(), &error.to_string());
                Box::pin(futures::stream::once(std::future::ready(Ok(failed))))
            }
        };
        Response::ok(events)
    }

    async fn write_stdin<'a>(
        &'a self,
        _context: RequestContext,
        mut requests: InboundStream<wire::StdinRequest>,
    ) -> ServiceResult<impl Encodable<wire::StdinResponse> + Send + use<'a>> {
        let mut stdin = None;
        while let Some(request) = requests.next().await {
            let request = request?;
            let request = request.view();
            let pipe = match &mut stdin {
                Some(pipe) => pipe,
                None => stdin.insert(
                    self.agent
                        .children()
                        .take_stdin(request.pid)
                        .map_err(|error| ConnectError::not_found(error.to_string()))?,
                ),
            };
            pipe.write_all(request.data).await.map_err(|error| {
                let pid = request.pid;
                ConnectError::failed_precondition(format!("stdin of process {pid}: {error}"))
            })?;
        }
        Response::ok(wire::StdinResponse::default())
    }

    async fn send_signal<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::SendSignalRequest>,
    ) -> ServiceResult<impl Encodable<wire::SendSignalResponse> + Send + use<'a>> {
        let sent = self.agent.children().signal(request.pid, request.signal);
        sent.map_err(|error| match error {
            SignalError::NoSuchProcess(_) => ConnectError::not_found(error.to_string()),
            SignalError::InvalidSignal(_) => ConnectError::invalid_argument(error.to_string()),
            SignalError::Refused { .. } => ConnectError::permission_denied(error.to_string()),
        })?;
        Response::ok(wire::SendSignalResponse::default())
    }

    async fn list<'a>(
        &'a self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::ListRequest>,
    ) -> ServiceResult<impl Encodable<wire::ListResponse> + Send + use<'a>> {
        let list = self.agent.children().list();
        let processes = list.into_iter().map(wire::ProcessEntry::from).collect();
        Response::ok(wire::ListResponse { processes, ..wire::ListResponse::default() })
    }

    async fn shutdown<'a>(
        &'a self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::ShutdownRequest>,
    ) -> ServiceResult<impl Encodable<wire::ShutdownResponse> + Send + use<'a>> {
        self.agent.want_stop();
        Response::ok(wire::ShutdownResponse::default())
    }
}

/// A process's life as wire events. Dropping it drops the process.
fn follow(
    running: Running,
) -> impl futures::Stream<Item = Result<OutgoingEvent, ConnectError>> + Send + 'static {
    let Running { pid, mut events } = running;
    let started = futures::stream::once(std::future::ready(OutgoingEvent::started(pid)));
    let rest = futures::stream::poll_fn(move |cx| events.poll_recv(cx)).map(|event| match event {
        ChildEvent::Stdout(data) => OutgoingEvent::Stdout(data),
        ChildEvent::Stderr(data) => OutgoingEvent::Stderr(data),
        ChildEvent::Exited(report) => OutgoingEvent::exited(&report),
    });
    started.chain(rest).map(Ok)
}
