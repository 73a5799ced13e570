//! Giving an agent its next program.

use std::time::Duration;

use aetherium_agent_proto::Hello;
use aetherium_agent_proto::rpc::MAX_CHUNK_BYTES;
use aetherium_agent_proto::rpc::wire;
use aetherium_agent_proto::rpc::wire::__buffa::oneof::upgrade_request::Part;
use bytes::Bytes;
use connectrpc::ErrorCode;
use sha2::{Digest as _, Sha256};

use crate::connection::SINCE_1_1;
use crate::{AgentClient, AgentError};

/// How long sending a program and trying it may take.
const SEND_TIME: Duration = Duration::from_secs(60);
/// How long the agent may take to let its callers go, and to be back.
const CHANGE_TIME: Duration = Duration::from_secs(20);
/// How often an agent that is still the old one is asked.
const PAUSE: Duration = Duration::from_millis(20);

/// Sends a program and waits until it has taken over.
pub(crate) async fn upgrade(client: &AgentClient, program: Bytes) -> Result<Hello, AgentError> {
    let connection = client.connection().await?;
    connection.require("upgrade", SINCE_1_1)?;
    let before = client.call("hello", connection.hello()).await?;
    let wire = connection.wire();
    let sending = wire.upgrade(futures::stream::iter(parts(program)));
    match client.unless_ended(tokio::time::timeout(SEND_TIME, sending)).await? {
        Ok(Ok(_)) => {}
        Ok(Err(error)) if error.code == ErrorCode::InvalidArgument => {
            let detail = error.message.unwrap_or_default();
            return Err(AgentError::UpgradeRefused { detail });
        }
        Ok(Err(error)) => return Err(connection.error("upgrade", &error)),
        Err(_) => return Err(AgentError::DeadlineExceeded { call: "upgrade", after: SEND_TIME }),
    }
    client.give_up(&connection).await;
    drop((wire, connection));
    match tokio::time::timeout(CHANGE_TIME, changed(client, before.generation)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(AgentError::DeadlineExceeded { call: "upgrade", after: CHANGE_TIME }),
    }
}

/// Waits until the agent is another one, or says why it is not.
async fn changed(client: &AgentClient, before: u32) -> Result<Hello, AgentError> {
    loop {
        match client.wait_ready(CHANGE_TIME).await {
            Ok(hello) if hello.generation > before => return Ok(hello),
            Ok(Hello { upgrade_failure: Some(detail), .. }) => {
                return Err(AgentError::UpgradeRefused { detail });
            }
            // It has not begun to change, or was just leaving.
            Ok(_) | Err(AgentError::ConnectionLost { .. }) => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error),
        }
    }
}

fn parts(mut program: Bytes) -> impl Iterator<Item = wire::UpgradeRequest> + Send + 'static {
    let head = wire::UpgradeHead {
        size: program.len() as u64,
        sha256: Sha256::digest(&program).to_vec(),
        ..wire::UpgradeHead::default()
    };
    let data = std::iter::from_fn(move || {
        let piece = program.split_to(program.len().min(MAX_CHUNK_BYTES));
        (!piece.is_empty()).then(|| Part::Data(piece.into()))
    });
    std::iter::once(Part::Head(Box::new(head)))
        .chain(data)
        .map(|part| wire::UpgradeRequest { part: Some(part), ..wire::UpgradeRequest::default() })
}
