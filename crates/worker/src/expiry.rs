//! Ending VMs whose time to live is over, whatever they do: also those taken over after a restart,
//! since the store knows until when each may live.

use crate::{host::Host, workspace};
use aetherium_model::{Code, Fault, Timestamp, VmId};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

/// How often expired VMs are looked for; so much later than said one may end.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Ends expired VMs until `shutdown`.
pub(crate) async fn end_expired(host: Arc<Host>, shutdown: CancellationToken) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut ends, mut ending) = (JoinSet::new(), HashSet::new());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            Some(ended) = ends.join_next() => {
                match ended {
                    Ok(id) => _ = ending.remove(&id),
                    Err(error) => tracing::error!(%error, "ending an expired vm failed"),
                }
                continue;
            }
            // Those that are being ended end with the worker's other VMs.
            () = shutdown.cancelled() => return,
        }
        match host.queue.store().expired_vms(host.id, host.now()).await {
            Ok(expired) => {
                for (id, at) in expired {
                    if ending.insert(id) {
                        ends.spawn(end(Arc::clone(&host), id, at));
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "expired vms could not be looked for"),
        }
    }
}

async fn end(host: Arc<Host>, id: VmId, at: Timestamp) -> VmId {
    let reason = Fault::new(Code::Expired, format!("it was to live until {at}"));
    if let Err(error) = workspace::end_vm(&host, id, reason).await {
        tracing::warn!(vm = %id, %error, "an expired vm could not be ended and is tried again");
    }
    id
}
