//! The verbs: from the wire's messages to the machine, and back.

use std::time::Duration;

use aetherium_agent_proto::rpc::wire;
use aetherium_agent_proto::system::{MachineIdentity, SecretName};
use aetherium_agent_proto::{Refusal, RefusalKind};
use connectrpc::{Encodable, RequestContext, Response, ServiceRequest, ServiceResult};

use super::net::{Control, INTERFACE};
use super::{Machine, clock, entropy, identity, metrics, secrets};
use crate::actor::Actor;
use crate::refuse::OrRefuse as _;

/// The verbs.
pub(crate) struct SystemVerbs {
    pub(crate) machine: Machine,
}

impl SystemVerbs {
    /// Does work on the machine, if it is the agent's own.
    async fn change<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        self.machine.expect_own(what)?;
        Actor::find(None)?.run(work).await
    }
}

impl wire::System for SystemVerbs {
    async fn metrics<'a>(
        &'a self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::MetricsRequest>,
    ) -> ServiceResult<impl Encodable<wire::MetricsResponse> + Send + use<'a>> {
        let metrics = Actor::find(None)?.run(metrics::read).await?;
        Response::ok(wire::MetricsResponse::from(metrics))
    }

    async fn set_clock<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::SetClockRequest>,
    ) -> ServiceResult<impl Encodable<wire::SetClockResponse> + Send + use<'a>> {
        // Not on a thread of its own: each hop would make the time older.
        self.machine.expect_own("set its clock")?;
        let moved_ns = clock::set(Duration::from_nanos(request.unix_ns))?;
        Response::ok(wire::SetClockResponse { moved_ns, ..wire::SetClockResponse::default() })
    }

    async fn reseed<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::ReseedRequest>,
    ) -> ServiceResult<impl Encodable<wire::ReseedResponse> + Send + use<'a>> {
        self.machine.expect_own("reseed its generator")?;
        entropy::reseed(request.entropy)?;
        Response::ok(wire::ReseedResponse::default())
    }

    async fn set_identity<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::SetIdentityRequest>,
    ) -> ServiceResult<impl Encodable<wire::SetIdentityResponse> + Send + use<'a>> {
        let identity = MachineIdentity::try_from(request.to_owned_message()).map_err(invalid)?;
        self.change("change its identity", move || take(&identity)).await?;
        Response::ok(wire::SetIdentityResponse::default())
    }

    async fn write_secret<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::WriteSecretRequest>,
    ) -> ServiceResult<impl Encodable<wire::WriteSecretResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let name: SecretName = request.name.parse().map_err(invalid)?;
        let write = move || secrets::write(&name, &request.data, request.user.as_deref());
        let path = self.change("mount a place for secrets", write).await?;
        Response::ok(wire::WriteSecretResponse { path, ..wire::WriteSecretResponse::default() })
    }

    async fn remove_secret<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::RemoveSecretRequest>,
    ) -> ServiceResult<impl Encodable<wire::RemoveSecretResponse> + Send + use<'a>> {
        let name: SecretName = request.name.parse().map_err(invalid)?;
        let removed = self.change("hold secrets", move || secrets::remove(&name)).await?;
        Response::ok(wire::RemoveSecretResponse {
            removed,
            ..wire::RemoveSecretResponse::default()
        })
    }
}

/// Takes another identity. The network goes last: a caller over TCP may lose its way here.
fn take(identity: &MachineIdentity) -> Result<(), Refusal> {
    if let Some(hostname) = &identity.hostname {
        identity::set_hostname(hostname)?;
    }
    let Some(net) = &identity.network else { return Ok(()) };
    identity::set_dns(&net.dns)?;
    let control = Control::open().or_refuse("the guest has no network")?;
    control
        .configure(net)
        .or_refuse(format_args!("{INTERFACE} was not given address {}", net.address_cidr))
}

fn invalid(error: impl ToString) -> Refusal {
    Refusal::new(RefusalKind::InvalidRequest, error.to_string())
}
