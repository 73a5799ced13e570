//! Whether a VM is being used, and since when not: what the idle timeout goes by.
//!
//! Using a VM and giving it up for idleness exclude each other: whoever has a [`Hold`] has the VM
//! until it lets go, and once the VM is given up there are no more holds.

use aetherium_model::workspace::{IdleAction, Workspace};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// What is done about a VM that is idle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdlePolicy {
    /// After how long.
    pub(crate) after: Duration,
    /// What.
    pub(crate) action: IdleAction,
}

impl IdlePolicy {
    /// A workspace's; `None` where its VM may be idle for as long as it likes.
    pub(crate) fn of(workspace: &Workspace) -> Option<Self> {
        let after = Duration::from_secs(workspace.idle_timeout_s.into());
        (!after.is_zero()).then_some(Self { after, action: workspace.idle_action })
    }
}

/// Counts who uses a VM and remembers when the last one left.
#[derive(Debug)]
pub(crate) struct Activity {
    inner: Mutex<Inner>,
    /// Tells that it was taken back.
    back: Notify,
}

#[derive(Debug)]
struct Inner {
    holds: usize,
    idle_since: Instant,
    given_up: bool,
}

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner { holds: 0, idle_since: Instant::now(), given_up: false }),
            back: Notify::new(),
        })
    }

    /// Marks the VM as used until the hold is dropped; `None` once it was given up.
    pub(crate) fn hold(self: &Arc<Self>) -> Option<Hold> {
        let mut inner = self.lock();
        if inner.given_up {
            return None;
        }
        inner.holds += 1;
        Some(Hold(Arc::clone(self)))
    }

    /// Counts the VM as used for a while yet, until somebody who has a hold lets go of it.
    pub(crate) fn expect_use(&self, within: Duration) {
        self.lock().idle_since = Instant::now() + within;
    }

    /// Gives the VM up if nobody has used it for `timeout`, and says for how long nobody has.
    pub(crate) fn give_up_if_idle(&self, timeout: Duration) -> Option<Duration> {
        let mut inner = self.lock();
        // One that is expected to be used has not begun to be idle.
        let idle = Instant::now().checked_duration_since(inner.idle_since)?;
        inner.given_up = inner.holds == 0 && idle >= timeout;
        inner.given_up.then_some(idle)
    }

    /// Takes a VM back that was given up and goes on.
    pub(crate) fn take_back(&self) {
        let mut inner = self.lock();
        (inner.given_up, inner.idle_since) = (false, Instant::now());
        drop(inner);
        self.back.notify_waiters();
    }

    /// Waits until the VM is not given up, for as long as it is.
    pub(crate) async fn taken_back(&self) {
        loop {
            // Hears of what happens from here on.
            let back = self.back.notified();
            if !self.lock().given_up {
                return;
            }
            back.await;
        }
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
        let first = activity.hold().unwrap();
        let second = activity.hold().unwrap();
        tokio::time::advance(Duration::from_secs(5)).await;
        drop(first);
        assert_eq!(activity.idle_for(), None);
        drop(second);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(activity.idle_for(), Some(Duration::from_secs(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_vm_that_is_about_to_be_used_is_given_time_for_that_once() {
        let (activity, second) = (Activity::new(), Duration::from_secs(1));
        activity.expect_use(second * 30);
        tokio::time::advance(second * 30).await;
        assert_eq!(activity.give_up_if_idle(second), None);
        drop(activity.hold());
        tokio::time::advance(second).await;
        assert_eq!(activity.give_up_if_idle(second), Some(second));
    }

    #[tokio::test(start_paused = true)]
    async fn a_vm_that_is_taken_back_begins_to_be_idle_anew() {
        let (activity, second) = (Activity::new(), Duration::from_secs(1));
        activity.expect_use(second);
        assert_eq!(activity.give_up_if_idle(Duration::ZERO), None, "it is about to be used");
        tokio::time::advance(second * 9).await;
        assert_eq!(activity.give_up_if_idle(Duration::ZERO), Some(second * 8));
        let waiting = tokio::spawn({
            let activity = Arc::clone(&activity);
            async move { activity.taken_back().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        activity.take_back();
        waiting.await.unwrap();
        assert_eq!(activity.give_up_if_idle(second), None);
        assert!(activity.hold().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_vm_in_use_is_not_given_up_and_one_given_up_is_not_used_again() {
        let activity = Activity::new();
        let timeout = Duration::from_secs(2);
        let hold = activity.hold().unwrap();
        tokio::time::advance(timeout * 2).await;
        assert_eq!(activity.give_up_if_idle(timeout), None, "it is in use");
        drop(hold);
        assert_eq!(activity.give_up_if_idle(timeout), None, "it was in use just now");
        let hold = activity.hold().expect("it was not given up");
        drop(hold);
        tokio::time::advance(timeout).await;
        assert_eq!(activity.give_up_if_idle(timeout), Some(timeout));
        assert!(activity.hold().is_none(), "it was given up");
    }
}
