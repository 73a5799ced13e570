//! What nobody asks for but everybody expects: records and logs do not pile up for ever.

use crate::{host::Host, reconcile::forget_pruned};
use std::{sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often old records are looked for.
const EVERY: Duration = Duration::from_secs(3600);
/// How long the record of an ended VM, with its executions, its console and its log, is kept.
const KEEP: Duration = Duration::from_secs(7 * 24 * 3600);

/// Prunes now and then until `shutdown`.
pub(crate) async fn keep_house(host: Arc<Host>, shutdown: CancellationToken) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        match host.queue.store().prune(host.now(), KEEP).await {
            Ok(pruned) => tracing::debug!(?pruned, "pruned"),
            Err(error) => tracing::warn!(%error, "old records could not be pruned"),
        }
        if let Err(error) = forget_pruned(&host).await {
            tracing::warn!(%error, "logs of pruned VMs could not be removed");
        }
    }
}
