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

/// Every service, for one connection.
pub(super) fn router(agent: &Arc<Agent>) -> Router {
    Router::new().add_service(Arc::new(processes::Processes { agent: agent.clone() }))
}
