//! The `Agent` service: greeting, processes, the end.
//!
//! An output stream is pulled by its caller: what is not read is not produced.

use std::sync::Arc;

use aetherium_agent_proto::rpc::{OutgoingEvent, wire};
use aetherium_agent_proto::{ProcessSelector, StreamOffsets};
use connectrpc::{
    ConnectError, Encodable, InboundStream, RequestContext, Response, ServiceRequest,
    ServiceResult, ServiceStream,
};
use futures::StreamExt as _;

use super::{stdin, upgrade};
use crate::exec::{AttachError, Event, Phase, Reader, SignalError, StreamId};
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
        let events: ServiceStream<OutgoingEvent> = match self.agent.children().start(spec) {
            Ok(reader) => {
                let started = OutgoingEvent::started(reader.process().pid());
                Box::pin(follow(started, reader))
            }
            Err(error) => {
                let failed = OutgoingEvent::failed(error.kind().code(), &error.to_string());
                Box::pin(futures::stream::once(std::future::ready(Ok(failed))))
            }
        };
        Response::ok(events)
    }

    async fn attach(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::AttachRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<wire::ProcessEvent> + Send + use<>>> {
        let request = request.to_owned_message();
        let selector = selector(request.process)?;
        let from = request.from.into_option().map(StreamOffsets::from);
        let reader = self
            .agent
            .children()
            .attach(&selector, from, request.as_starter)
            .map_err(|error| refusal(&error))?;
        let process = reader.process();
        let attached = OutgoingEvent::attached(process.pid(), reader.at(), process.has_terminal());
        Response::ok(Box::pin(follow(attached, reader)) as ServiceStream<OutgoingEvent>)
    }

    async fn wait<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::WaitRequest>,
    ) -> ServiceResult<impl Encodable<wire::WaitResponse> + Send + use<'a>> {
        let selector = selector(request.to_owned_message().process)?;
        let children = self.agent.children();
        let process = children.find(&selector).map_err(|error| refusal(&error))?;
        let mut phase = children.phase();
        tokio::select! {
            report = process.ended() => Response::ok(wire::WaitResponse {
                pid: process.pid(),
                exited: wire::Exited::from(&report).into(),
                ..wire::WaitResponse::default()
            }),
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => {
                Err(ConnectError::unavailable("the agent is being replaced; ask again"))
            }
        }
    }

    async fn resize_terminal<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::ResizeTerminalRequest>,
    ) -> ServiceResult<impl Encodable<wire::ResizeTerminalResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let size = request.size.into_option().ok_or_else(|| {
            ConnectError::invalid_argument("the request names no size; give rows and columns")
        })?;
        let process = self.agent.children().find(&ProcessSelector::Pid(request.pid));
        let process = process.map_err(|error| refusal(&error))?;
        process
            .resize(size.into())
            .map_err(|error| ConnectError::invalid_argument(error.to_string()))?;
        Response::ok(wire::ResizeTerminalResponse::default())
    }

    async fn write_stdin<'a>(
        &'a self,
        _context: RequestContext,
        requests: InboundStream<wire::StdinRequest>,
    ) -> ServiceResult<impl Encodable<wire::StdinResponse> + Send + use<'a>> {
        Response::ok(stdin::feed(self.agent.children(), requests).await?)
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
        request: ServiceRequest<'_, wire::ListRequest>,
    ) -> ServiceResult<impl Encodable<wire::ListResponse> + Send + use<'a>> {
        let list = self.agent.children().list(request.include_ended);
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

    async fn upgrade<'a>(
        &'a self,
        _context: RequestContext,
        requests: InboundStream<wire::UpgradeRequest>,
    ) -> ServiceResult<impl Encodable<wire::UpgradeResponse> + Send + use<'a>> {
        Response::ok(upgrade::receive(&self.agent, requests).await?)
    }
}

/// A process's life as wire events, after a first one. Dropping it drops the reader.
fn follow(
    first: OutgoingEvent,
    reader: Reader,
) -> impl futures::Stream<Item = Result<OutgoingEvent, ConnectError>> + Send + 'static {
    let rest = futures::stream::unfold(reader, async |mut reader| {
        let event = match reader.next().await? {
            Event::Output(StreamId::Stdout, data) => OutgoingEvent::Stdout(data),
            Event::Output(StreamId::Stderr, data) => OutgoingEvent::Stderr(data),
            Event::Skipped(bytes) => OutgoingEvent::skipped(bytes),
            Event::Exited(report) => OutgoingEvent::exited(&report),
            Event::HandedOver(offsets) => OutgoingEvent::handed_over(offsets),
        };
        Some((event, reader))
    });
    futures::stream::once(std::future::ready(first)).chain(rest).map(Ok)
}

fn selector(
    message: impl Into<Option<wire::ProcessSelector>>,
) -> Result<ProcessSelector, ConnectError> {
    let selector = message.into().and_then(wire::ProcessSelector::meaning);
    selector.ok_or_else(|| {
        ConnectError::invalid_argument("the request names no process; give a pid or a tag")
    })
}

fn refusal(error: &AttachError) -> ConnectError {
    match error {
        AttachError::NoSuchProcess(_) => ConnectError::not_found(error.to_string()),
        AttachError::PlaceTaken(_) => ConnectError::already_exists(error.to_string()),
    }
}
