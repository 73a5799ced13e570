//! What the gateway may be told, with a default for everything but the keys.

use crate::{ApiKeys, WebhookPolicy};
use aetherium_catalog::Catalog;
use aetherium_model::pass::FleetKey;
use aetherium_store::LogBounds;
use std::{sync::Arc, time::Duration};

/// How the gateway behaves.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Who may speak.
    pub keys: ApiKeys,
    /// What workers on other machines want proven.
    pub fleet_key: Option<FleetKey>,
    /// What a request may take that neither streams nor waits for a command.
    pub request_timeout: Duration,
    /// What a client may take to send its request's head, or keep a connection open unused.
    pub header_read_timeout: Duration,
    /// What a client may take to read the next bytes of an answer before its connection is closed.
    pub write_stall_timeout: Duration,
    /// Connections at once; more wait in the listener's backlog.
    pub max_connections: usize,
    /// Event streams and WebSockets at once; more are answered `busy`.
    pub max_streams: usize,
    /// The pause in an event stream after which a comment keeps the connection alive.
    pub keep_alive: Duration,
    /// How much of the event log is kept.
    pub event_log: LogBounds,
    /// How webhooks are told of events.
    pub webhooks: WebhookPolicy,
    /// How long prompts wait for a worker that is gone before they fail.
    pub gone_patience: Duration,
    /// The assistants and tools that workspaces may name.
    pub catalog: Arc<Catalog>,
    /// What requests in flight may still take when the gateway is told to stop.
    pub shutdown_grace: Duration,
}

impl GatewayConfig {
    /// The defaults, for these keys.
    pub fn new(keys: ApiKeys) -> Self {
        Self {
            keys,
            fleet_key: None,
            request_timeout: Duration::from_secs(30),
            header_read_timeout: Duration::from_secs(20),
            write_stall_timeout: Duration::from_secs(120),
            max_connections: 2048,
            max_streams: 1024,
            keep_alive: Duration::from_secs(15),
            event_log: LogBounds::default(),
            webhooks: WebhookPolicy::default(),
            catalog: Arc::new(Catalog::built_in()),
            gone_patience: Duration::from_secs(600),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}
