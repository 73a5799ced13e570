//! The worker's side of its lease: whether it may still work, by its own clock and nobody else's.
//!
//! The lease is counted from the moment a heartbeat was sent that was answered, on a clock that also runs
//! while the machine sleeps. Once it has run out, it is lost for good: this process never works again.
//! Every step that others must be able to rely on asks first ([`Tenure::check`]), so that a process that
//! was stopped for a while notices before it does anything else. That it might be stopped between asking
//! and writing is why the store asks again, see [`aetherium_store::Fence`].

use crate::{WorkerError, host::Host};
use aetherium_model::{Code, Fault, worker::Lease};
use aetherium_store::Fence;
use futures::future::join_all;
use rustix::time::{ClockId, clock_gettime};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// How often the clock is looked at, lest the machine has slept: a timer of the runtime would not notice.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The pause between two searches for processes of VMs, once they are to end.
const SEARCH_EVERY: Duration = Duration::from_millis(100);
/// How long killed processes may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// A moment on the clock that runs while the machine sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    pub(crate) fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let millis = time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000);
        Self(u64::try_from(millis).unwrap_or_default())
    }
}

/// This process's time as the worker.
pub(crate) struct Tenure {
    /// What the store knows it by.
    pub(crate) fence: Fence,
    /// How long it lasts without being heard of; for ever where absent.
    pub(crate) lease: Option<Lease>,
    until: AtomicU64,
    lost: CancellationToken,
}

impl Tenure {
    /// A tenure whose first heartbeat was its registration, sent at `sent`.
    pub(crate) fn begin(fence: Fence, lease: Option<Lease>, sent: Moment) -> Self {
        let tenure =
            Self { fence, lease, until: AtomicU64::new(0), lost: CancellationToken::new() };
        tenure.renewed(sent);
        tenure
    }

    /// Notes that a heartbeat was answered which was sent at `sent`.
    pub(crate) fn renewed(&self, sent: Moment) {
        if let Some(lease) = self.lease {
            let lasts = u64::try_from(lease.lasts().as_millis()).unwrap_or(u64::MAX);
            self.until.fetch_max(sent.0.saturating_add(lasts), Ordering::SeqCst);
        }
    }

    /// Gives it up: somebody else has ended it.
    pub(crate) fn end(&self) {
        self.lost.cancel();
    }

    /// Whether this process may still work.
    ///
    /// # Errors
    /// It may not, and never will again.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        if self.left().is_zero() {
            self.lost.cancel();
        }
        if self.lost.is_cancelled() {
            let detail = "the worker could not renew its lease in time and has ended its VMs";
            return Err(Fault::new(Code::WorkerLost, detail)
                .remedy("see whether it reaches the database; it begins anew by itself"));
        }
        Ok(())
    }

    /// Waits until it is lost.
    pub(crate) async fn lost(&self) {
        while self.check().is_ok() {
            tokio::select! {
                () = tokio::time::sleep(self.left().min(LOOK_EVERY)) => {}
                () = self.lost.cancelled() => {}
            }
        }
    }

    fn left(&self) -> Duration {
        match self.lease {
            Some(_) => {
                let until = self.until.load(Ordering::SeqCst);
                Duration::from_millis(until.saturating_sub(Moment::now().0))
            }
            None => Duration::MAX,
        }
    }
}

/// Waits until the lease is lost, then ends every VM at once. Neither the database nor the VMs' actors
/// are asked: the one may not be reached, and the others may be waiting for it. `fenced` fires when no
/// process of a VM is left.
pub(crate) async fn fence(
    host: Arc<Host>,
    stop_consumer: CancellationToken,
    fenced: CancellationToken,
) {
    host.tenure.lost().await;
    tracing::error!(worker = %host.id, "the lease is lost: nothing more is begun, and every VM is ended");
    stop_consumer.cancel();
    host.draining.cancel();
    let margin = host.tenure.lease.map_or(Duration::ZERO, |lease| lease.granted() - lease.lasts());
    let deadline = Instant::now() + margin / 2;
    loop {
        let strays = host.strays().await;
        for killed in join_all(strays.iter().map(|stray| stray.kill(KILL_DEADLINE))).await {
            if let Err(error) = killed {
                tracing::error!(%error, "a process of a VM would not die");
            }
        }
        // A start that was under way may just have made another.
        let is_quiet = host.vms.count() == 0 || Instant::now() >= deadline;
        if strays.is_empty() && is_quiet {
            break;
        }
        tokio::time::sleep(SEARCH_EVERY).await;
    }
    fenced.cancel();
}

/// Begins this process's tenure in the store.
pub(crate) async fn begin(
    store: &aetherium_store::Store,
    worker: &aetherium_model::worker::Worker,
    lease: Option<Lease>,
) -> Result<Tenure, WorkerError> {
    let sent = Moment::now();
    let fence = store.register_worker(worker, lease).await?;
    Ok(Tenure::begin(fence, lease, sent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aetherium_model::{WorkerId, worker::Epoch};

    fn tenure(lease: Option<Lease>, sent: Moment) -> Tenure {
        let fence = Fence { worker_id: WorkerId::new(), epoch: Epoch(1) };
        Tenure::begin(fence, lease, sent)
    }

    #[test]
    fn a_lease_counts_from_the_heartbeat_that_was_sent_and_once_lost_is_lost() {
        let lease = Lease::try_from(Duration::from_secs(1)).unwrap();
        let now = Moment::now();
        let held = tenure(Some(lease), now);
        held.check().unwrap();
        // An answer to an old heartbeat prolongs nothing.
        held.renewed(Moment(now.0 - 500));
        assert!(held.left() > Duration::from_millis(900), "{:?}", held.left());

        let late = tenure(Some(lease), Moment(now.0 - 1001));
        assert_eq!(late.check().unwrap_err().code, Code::WorkerLost);
        late.renewed(Moment::now());
        late.check().unwrap_err();
    }

    #[tokio::test]
    async fn one_without_a_lease_lasts_until_somebody_else_begins() {
        let tenure = tenure(None, Moment(0));
        tenure.check().unwrap();
        tenure.end();
        tenure.lost().await;
        tenure.check().unwrap_err();
    }
}
