//! The agent's next program on its way in.

use aetherium_agent_proto::rpc::wire;
use aetherium_agent_proto::rpc::wire::__buffa::view::oneof::upgrade_request::Part;
use connectrpc::{ConnectError, InboundStream};
use futures::StreamExt as _;

use crate::server::Agent;
use crate::upgrade::{Receiving, UpgradeError};

/// Receives a program, tries it, and wishes for it to take over.
pub(super) async fn receive(
    agent: &Agent,
    mut requests: InboundStream<wire::UpgradeRequest>,
) -> Result<wire::UpgradeResponse, ConnectError> {
    let mut receiving: Option<Receiving> = None;
    while let Some(request) = requests.next().await {
        let request = request?;
        match (&request.view().part, &mut receiving) {
            (Some(Part::Head(head)), None) => {
                let begun = Receiving::new(head.size, head.sha256.to_vec());
                receiving = Some(begun.map_err(|error| refusal(&error))?);
            }
            (Some(Part::Data(data)), Some(receiving)) => {
                receiving.take(data).map_err(|error| refusal(&error))?;
            }
            _ => return Err(ConnectError::invalid_argument(ORDER)),
        }
    }
    let receiving = receiving.ok_or_else(|| ConnectError::invalid_argument(ORDER))?;
    let candidate = receiving.finish(agent.children()).await.map_err(|error| refusal(&error))?;
    let agent_version = candidate.version().to_owned();
    agent.want_upgrade(candidate).map_err(|_| {
        ConnectError::invalid_argument("another upgrade is under way; try again after it")
    })?;
    Ok(wire::UpgradeResponse { agent_version, ..wire::UpgradeResponse::default() })
}

const ORDER: &str = "an upgrade is one head, then the program's bytes";

fn refusal(error: &UpgradeError) -> ConnectError {
    ConnectError::invalid_argument(error.to_string())
}
