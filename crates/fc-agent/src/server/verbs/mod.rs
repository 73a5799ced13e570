//! What callers can ask for: one file per service of the wire.
//!
//! Owns the translation between the wire's messages and the agent's types. Must never hold state of
//! its own: a verb works on what the [`Agent`] shares with all connections.

mod processes;
mod stdin;
mod upgrade;

use std::sync::Arc;

use connectrpc::Router;

use super::Agent;
use crate::files::FileVerbs;
use crate::ports::PortVerbs;
use crate::system::SystemVerbs;

/// Every service, for one connection.
pub(super) fn router(agent: &Arc<Agent>) -> Router {
    Router::new()
        .add_service(Arc::new(processes::Processes { agent: agent.clone() }))
        .add_service(Arc::new(FileVerbs))
        .add_service(Arc::new(PortVerbs))
        .add_service(Arc::new(SystemVerbs { machine: agent.machine() }))
}
