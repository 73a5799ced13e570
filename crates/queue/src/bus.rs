//! Notifications: that something changed, never what. Whoever is woken looks in the store.
//!
//! A change that is announced after [`Bus::subscribe`] returned is never missed, however late the
//! subscriber asks. Many changes may be told as one. A topic takes memory only while somebody
//! subscribes to it.
//!
//! A bus reaches this process alone. Where other processes make changes too, [`Bus::polling`] has every
//! subscriber look again after a while, as if told.

use aetherium_model::{TaskId, VmId, WorkerId, WorkspaceId};
use aetherium_store::RunRef;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// What a notification is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// There is work for this worker, or somebody wants some of its work cancelled.
    Worker(WorkerId),
    /// A workspace's row changed.
    Workspace(WorkspaceId),
    /// A VM's row changed.
    Vm(VmId),
    /// A run's log or state changed.
    Run(RunRef),
    /// A task's state changed, or its own log.
    Task(TaskId),
}

impl Topic {
    /// What is told of a log: with its run, or with its task where it is the task's own.
    pub const fn of(log: RunRef) -> Self {
        match log {
            RunRef::Task(id) => Self::Task(id),
            run @ (RunRef::Prompt(_) | RunRef::Execution(_)) => Self::Run(run),
        }
    }
}

/// Whether a change was announced in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// Something changed since the last look, or may have.
    Yes,
    /// Nothing was announced in the time given.
    TimedOut,
}

type Topics = HashMap<Topic, watch::Sender<()>>;

/// Carries notifications. Clones carry to the same subscribers.
#[derive(Debug, Clone)]
pub struct Bus {
    topics: Arc<Mutex<Topics>>,
    /// After which time without word a subscriber is told to look again.
    look_again: Option<Duration>,
}

impl Bus {
    /// A bus within this process.
    pub fn in_process() -> Self {
        Self { topics: Arc::default(), look_again: None }
    }

    /// A bus within this process, for what other processes change too: whoever hears nothing is told
    /// after `look_again` that something may have changed.
    pub fn polling(look_again: Duration) -> Self {
        Self { look_again: Some(look_again), ..Self::in_process() }
    }

    /// Tells a worker to look for work.
    pub fn wake(&self, worker_id: WorkerId) {
        self.announce(Topic::Worker(worker_id));
    }

    /// Tells the subscribers of a topic that it changed. Write the change to the store first.
    pub fn announce(&self, topic: Topic) {
        if let Some(subscribers) = self.topics().get(&topic) {
            subscribers.send_replace(());
        }
    }

    /// Begins to listen: every change announced from now on will be noticed. Look at the store
    /// after this, then wait.
    pub fn subscribe(&self, topic: Topic) -> Subscription {
        let changes =
            self.topics().entry(topic).or_insert_with(|| watch::channel(()).0).subscribe();
        Subscription { bus: self.clone(), topic, changes }
    }

    /// How many topics have subscribers.
    pub fn topics_in_use(&self) -> usize {
        self.topics().len()
    }

    /// The lock is held for a few instructions, which cannot leave the map half changed.
    fn topics(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An ear for one topic. It costs nothing once dropped.
#[derive(Debug)]
pub struct Subscription {
    bus: Bus,
    topic: Topic,
    changes: watch::Receiver<()>,
}

impl Subscription {
    /// Waits until something changed since the subscription, or since the last time this said so.
    pub async fn changed(&mut self, at_most: Duration) -> Changed {
        let look_again = self.bus.look_again.filter(|pause| *pause < at_most);
        let told =
            tokio::time::timeout(look_again.unwrap_or(at_most), self.changes.changed()).await;
        match (told, look_again) {
            (Ok(Ok(())), _) | (Err(_), Some(_)) => Changed::Yes,
            // The sender lives as long as there is a subscription: this one.
            (Ok(Err(_)) | Err(_), _) => Changed::TimedOut,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut topics = self.bus.topics();
        // Under the lock nobody else can begin or end to listen.
        let last = topics.get(&self.topic).is_some_and(|it| it.receiver_count() <= 1);
        if last {
            topics.remove(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_change_before_the_wait_is_noticed_and_told_once() {
        let bus = Bus::in_process();
        let worker = WorkerId::new();
        bus.wake(worker);
        let mut early = bus.subscribe(Topic::Worker(worker));
        assert_eq!(early.changed(Duration::ZERO).await, Changed::TimedOut);
        bus.wake(worker);
        bus.wake(worker);
        bus.wake(WorkerId::new());
        assert_eq!(early.changed(LONG).await, Changed::Yes);
        assert_eq!(early.changed(Duration::ZERO).await, Changed::TimedOut);
    }

    #[tokio::test]
    async fn a_polling_bus_has_its_subscribers_look_again_within_their_time() {
        let pause = Duration::from_millis(20);
        let mut work = Bus::polling(pause).subscribe(Topic::Worker(WorkerId::new()));
        assert_eq!(work.changed(LONG).await, Changed::Yes);
        assert_eq!(work.changed(Duration::ZERO).await, Changed::TimedOut);
        assert_eq!(work.changed(pause).await, Changed::TimedOut);
    }

    #[tokio::test]
    async fn a_topic_is_forgotten_with_its_last_subscriber() {
        let bus = Bus::in_process();
        let topic = Topic::Vm(VmId::new());
        for _ in 0..1000 {
            bus.announce(Topic::Vm(VmId::new()));
        }
        assert_eq!(bus.topics_in_use(), 0);
        let (one, mut two) = (bus.subscribe(topic), bus.subscribe(topic));
        drop(one);
        bus.announce(topic);
        assert_eq!(two.changed(LONG).await, Changed::Yes);
        drop(two);
        assert_eq!(bus.topics_in_use(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_many_thousand_changes_the_last_is_never_missed() {
        use std::sync::atomic::{AtomicU32, Ordering};
        const ROUNDS: u32 = 20_000;
        let bus = Bus::in_process();
        let worker = WorkerId::new();
        let written = Arc::new(AtomicU32::new(0));
        let seen = Arc::new(AtomicU32::new(0));
        let mut work = bus.subscribe(Topic::Worker(worker));
        let reader = tokio::spawn({
            let (written, seen) = (Arc::clone(&written), Arc::clone(&seen));
            async move {
                loop {
                    let now = written.load(Ordering::SeqCst);
                    seen.store(now, Ordering::SeqCst);
                    if now == ROUNDS {
                        return;
                    }
                    // A missed change would end here, since each is waited for before the next.
                    assert_eq!(work.changed(LONG).await, Changed::Yes);
                }
            }
        });
        for round in 1..=ROUNDS {
            written.store(round, Ordering::SeqCst);
            bus.wake(worker);
            let begun = Instant::now();
            while round % 4 == 0 && seen.load(Ordering::SeqCst) != round {
                assert!(begun.elapsed() < LONG, "change {round} was never noticed");
                tokio::task::yield_now().await;
            }
        }
        reader.await.unwrap();
    }
}
