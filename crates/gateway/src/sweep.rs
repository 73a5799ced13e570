//! What has to happen when a worker is gone: it is declared so, what it had goes where it can, and what
//! waits for it does not wait for ever. Every gateway does this; the store lets each thing be done once.

use crate::{Error, Gateway, fleet, gateway::now};
use std::time::Duration;

/// How often it is looked for lost workers, give or take a fifth so that gateways do not do it at once.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Looks for lost workers until the gateway stops.
pub(crate) async fn keep(gateway: Gateway) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY.mul_f64(0.8 + 0.4 * rand::random::<f64>())) => {}
            () = gateway.stopping().cancelled() => return,
        }
        if let Err(error) = sweep(&gateway).await {
            tracing::warn!(%error, "lost workers could not be looked after; it is tried again");
        }
    }
}

async fn sweep(gateway: &Gateway) -> Result<(), Error> {
    for lost in gateway.queue().declare_gone(now()).await? {
        let (vms, tasks) = (lost.vms.len(), lost.tasks.len());
        tracing::warn!(worker = %lost.worker_id, vms, tasks, "a worker is gone");
    }
    for workspace in gateway.store().stranded_workspaces().await? {
        match fleet::move_stranded(gateway, &workspace).await {
            Ok(Some(to)) => {
                tracing::info!(workspace = %workspace.id, worker = %to, "moved from a lost worker");
            }
            Ok(None) => {}
            // It waits for its worker then, or for another sweep.
            Err(error) => tracing::debug!(workspace = %workspace.id, %error, "not moved"),
        }
    }
    for task in gateway.queue().give_up_on_gone(gateway.config().gone_patience, now()).await? {
        tracing::warn!(task = %task.id, worker = %task.worker_id, "its worker did not come back");
    }
    Ok(())
}
