//! Whether a VM is being used, and since when not: what the idle timeout goes by.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Counts who uses a VM and remembers when the last one left.
#[derive(Debug)]
pub(crate) struct Activity {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    holds: usize,
    idle_since: Instant,
}

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { inner: Mutex::new(Inner { holds: 0, idle_since: Instant::now() }) })
    }

    /// Marks the VM as used until the hold is dropped.
    pub(crate) fn hold(self: &Arc<Self>) -> Hold {
        self.lock().holds += 1;
        Hold(Arc::clone(self))
    }

    /// For how long nobody has used the VM; `None` while somebody does.
    pub(crate) fn idle_for(&self) -> Option<Duration> {
        let inner = self.lock();
        (inner.holds == 0).then(|| inner.idle_since.elapsed())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic elsewhere cannot leave two plain numbers half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a VM from counting as idle.
#[derive(Debug)]
pub(crate) struct Hold(Arc<Activity>);

impl Drop for Hold {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.holds -= 1;
        inner.idle_since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_vm_is_idle_only_when_its_last_user_has_left() {
        let activity = Activity::new();
        let first = activity.hold();
        let second = activity.hold();
        tokio::time::advance(Duration::from_secs(5)).await;
        drop(first);
        assert_eq!(activity.idle_for(), None);
        drop(second);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(activity.idle_for(), Some(Duration::from_secs(3)));
    }
}
