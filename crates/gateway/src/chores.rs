//! What a gateway does unasked: it forgets old events and deliveries. Any number of gateways may do
//! it at once.

use crate::{Gateway, gateway::now};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// How often old entries are forgotten; between, the log may grow beyond its bound.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// Keeps the log within its bounds until the gateway stops.
pub(crate) async fn run(gateway: Gateway) {
    let mut ticks = interval(PRUNE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stopping = gateway.stopping().clone();
    while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
        let (store, bounds) = (gateway.store(), gateway.config().event_log);
        match store.prune_events(now(), bounds).await {
            Ok(events) => tracing::debug!(events, "forgotten"),
            Err(error) => tracing::warn!(%error, "old events could not be forgotten"),
        }
        if let Err(error) = store.prune_deliveries(now()).await {
            tracing::warn!(%error, "old deliveries could not be forgotten");
        }
    }
}
