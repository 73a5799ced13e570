//! The verbs: from the wire's messages to ports, and back.

use std::time::Duration;

use aetherium_agent_proto::rpc::{Outgoing, wire};
use aetherium_agent_proto::{Refusal, RefusalKind};
use connectrpc::{
    ConnectError, Encodable, InboundStream, RequestContext, Response, ServiceRequest,
    ServiceResult, ServiceStream,
};
use futures::StreamExt as _;
use wire::__buffa::oneof::tunnel_input::Part as Input;
use wire::__buffa::oneof::tunnel_output::Part;

use super::listening;
use super::tunnel::{self, Output};

/// The verbs.
pub(crate) struct PortVerbs;

impl wire::Ports for PortVerbs {
    async fn tunnel(
        &self,
        _context: RequestContext,
        mut input: InboundStream<wire::TunnelInput>,
    ) -> ServiceResult<ServiceStream<impl Encodable<wire::TunnelOutput> + Send + use<>>> {
        let first = input.next().await.transpose()?.and_then(|it| it.to_owned_message().part);
        let port = match first {
            Some(Input::Open(open)) => port(open.port)?,
            _ => return Err(invalid("the first message of a tunnel names a port").into()),
        };
        let mut output = tunnel::carry(tunnel::connect(port).await?, input);
        let opened =
            futures::stream::once(std::future::ready(Ok(small(Part::Opened(Box::default())))));
        let rest = futures::stream::poll_fn(move |cx| output.poll_recv(cx)).map(|it| match it {
            Ok(Output::Data(data)) => Ok(Outgoing::Data(data)),
            Ok(Output::End) => Ok(small(Part::End(Box::default()))),
            Err(refusal) => Err(ConnectError::from(refusal)),
        });
        let output: ServiceStream<Outgoing<wire::TunnelOutput>> = Box::pin(opened.chain(rest));
        Response::ok(output)
    }

    async fn watch_listening(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::WatchListeningRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<wire::ListeningEvent> + Send + use<>>> {
        let every = request.every_ms.map(|it| Duration::from_millis(it.into()));
        let mut events = listening::watch(every);
        let events = futures::stream::poll_fn(move |cx| events.poll_recv(cx))
            .map(|event| event.map(wire::ListeningEvent::from).map_err(ConnectError::from));
        let events: ServiceStream<wire::ListeningEvent> = Box::pin(events);
        Response::ok(events)
    }
}

fn port(number: u32) -> Result<u16, Refusal> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| invalid(format!("{number} is no TCP port; give 1 to 65535")))
}

fn invalid(detail: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::InvalidRequest, detail)
}

fn small(part: Part) -> Outgoing<wire::TunnelOutput> {
    let message = wire::TunnelOutput { part: Some(part), ..wire::TunnelOutput::default() };
    Outgoing::Message(Box::new(message))
}
