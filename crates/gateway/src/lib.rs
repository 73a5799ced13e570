//! Aetherium's stateless HTTP front.
//!
//! A request is authenticated, parsed and checked, and then is one of three things:
//!
//! - a **read** of the store;
//! - a **create**: rows and a task written in one transaction, answered with 202 (201 for a
//!   workspace) before anything runs. The bus then wakes the worker;
//! - **interactive**: passed to the owning worker's internal API, with its answer passed back.
//!
//! Output streams are read from the store, with the bus only saying that there is more: so a reader
//! may begin anywhere, lose its connection, or be slow, and still sees every event once.
//!
//! ```text
//! edge (request id, problems, panics, access log)      edge
//!  └ key (all but /health and /ready)                  auth
//!     └ deadline (all but streams and executions)      router
//!        └ extractors (parse, check) ─► handler        extract, routes
//!             ├─► store, bus                           sse, events, event_log, placement
//!             └─► worker's internal API                worker_client, tunnel
//! ```
//!
//! [`serve`] owns the listener and every connection; [`router`] is the same service without one,
//! and [`openapi`] its description, made from the handlers. Nothing here survives a restart, and
//! any number of gateways may stand in front of one store. The gateway never starts a VM, never
//! opens a template's files, and never shows a key, a body or a query in its log.

pub mod api;
mod auth;
mod chores;
mod config;
mod edge;
mod error;
mod event_log;
mod events;
mod extract;
mod fleet;
mod gateway;
mod login_feed;
mod metrics;
pub mod placement;
mod problem;
mod ready;
mod registry;
mod router;
mod routes;
mod serve;
mod sse;
mod stall;
mod sweep;
mod tunnel;
mod webhooks;
mod wire;
mod worker_client;

pub use auth::{ApiKeys, InvalidKey};
pub use config::GatewayConfig;
pub use error::Error;
pub use gateway::Gateway;
pub use problem::{FieldError, Problem, status};
pub use router::{openapi, router};
pub use serve::serve;
pub use webhooks::WebhookPolicy;
