//! Telling the rest of the system that this worker lives, what it has, and how much it does.

use crate::{WorkerError, host::Host};
pub(crate) use aetherium_model::worker::GONE_AFTER;
use aetherium_model::{
    HeldTemplate,
    worker::{HEARTBEAT, Worker, WorkerState},
};
use std::{fs, sync::Arc};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Enters the worker into the registry, or renews its entry.
pub(crate) async fn register(host: &Arc<Host>) -> Result<(), WorkerError> {
    let now = host.now();
    let (driver, driver_reason) = match &host.driver {
        Ok(chosen) => (Some(chosen.vmm.kind()), chosen.reason.clone()),
        Err(fault) => (None, fault.to_string()),
    };
    let worker = Worker {
        id: host.id,
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        driver,
        driver_reason,
        internal_address: host.address.clone(),
        templates: templates(host),
        vcpus: std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        memory_mib: memory_mib(),
        vms: host.vms.count(),
        state: WorkerState::Active,
        created_at: now,
        heartbeat_at: now,
    };
    host.queue.store().upsert_worker(&worker).await?;
    host.metrics.heard_of(now);
    Ok(())
}

/// Sends heartbeats until `shutdown`.
pub(crate) async fn keep(host: Arc<Host>, shutdown: CancellationToken) {
    let mut ticks = interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        beat(&host).await;
    }
}

/// Says what the worker has now, without waiting for the next time it would.
pub(crate) async fn beat(host: &Arc<Host>) {
    let (store, vms, now) = (host.queue.store(), host.vms.count(), host.now());
    match store.heartbeat(host.id, now, vms, &templates(host)).await {
        Ok(()) => host.metrics.heard_of(now),
        Err(error) => tracing::warn!(%error, "the heartbeat could not be written"),
    }
}

/// Says that the worker is about to stop, or has.
pub(crate) async fn announce(host: &Arc<Host>, state: WorkerState) {
    if let Err(error) = host.queue.store().set_worker_state(host.id, state, host.now()).await {
        tracing::warn!(%error, state = state.as_str(), "the worker's state could not be written");
    }
}

fn templates(host: &Host) -> Vec<HeldTemplate> {
    match host.templates.announced() {
        Ok(held) => held,
        Err(error) => {
            tracing::warn!(%error, "the templates could not be listed");
            Vec::new()
        }
    }
}

/// The host's memory, from the `MemTotal` line of /proc/meminfo (proc(5): in KiB).
fn memory_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
