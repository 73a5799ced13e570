//! Notifications: that something changed, never what. Whoever is woken looks in the store.
//!
//! A change that is announced after [`Bus::subscribe`] returned is never missed, however late the
//! subscriber asks. Many changes may be told as one. A topic takes memory only while somebody
//! subscribes to it.
//!
//! How far a bus reaches:
//!
//! - [`Bus::in_process`]: this process, where nobody else changes the store.
//! - [`Bus::polling`]: this process; since others make changes too, every subscriber looks again
//!   after a while, as if told.
//! - [`Bus::redis`]: every process that shares the Redis, as long as it answers. Its subscribers look
//!   again now and then, and often while it does not answer.
//!
//! Announcing neither waits nor fails.

mod local;
mod work;

pub(crate) use local::Local;
pub use work::{Calls, Work};

use crate::redis::{BadRedisUrl, Health, Link, Message};
use aetherium_model::{TaskId, VmId, WorkerId, WorkspaceId};
use aetherium_store::RunRef;
use std::{sync::Arc, time::Duration};
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
    /// Anything changed: there may be more in the event log. Every other announcement tells this
    /// too, so nobody makes it.
    Anything,
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

/// Carries notifications. Clones carry to the same subscribers.
#[derive(Debug, Clone)]
pub struct Bus {
    local: Arc<Local>,
    reach: Reach,
}

#[derive(Debug, Clone)]
enum Reach {
    InProcess,
    Polling(Duration),
    Redis(Arc<Link>),
}

impl Bus {
    /// A bus within this process.
    pub fn in_process() -> Self {
        Self { local: Arc::default(), reach: Reach::InProcess }
    }

    /// A bus within this process, for what other processes change too: whoever hears nothing is told
    /// after `look_again` that something may have changed.
    pub fn polling(look_again: Duration) -> Self {
        Self { local: Arc::default(), reach: Reach::Polling(look_again) }
    }

    /// A bus between all processes that name the same Redis. Whether it answers now does not matter:
    /// the bus finds it when it comes. Must be called within a Tokio runtime; what it starts ends
    /// with the last clone.
    ///
    /// # Errors
    /// [`BadRedisUrl`].
    pub fn redis(url: &str) -> Result<Self, BadRedisUrl> {
        let local = Arc::new(Local::default());
        let link = Link::open(url, Arc::clone(&local))?;
        Ok(Self { local, reach: Reach::Redis(Arc::new(link)) })
    }

    /// How Redis answers, where the bus has one.
    pub fn redis_health(&self) -> Option<watch::Receiver<Health>> {
        match &self.reach {
            Reach::Redis(link) => Some(link.health()),
            Reach::InProcess | Reach::Polling(_) => None,
        }
    }

    /// Tells a worker to look for work.
    pub fn wake(&self, worker_id: WorkerId) {
        self.call(worker_id, None);
    }

    /// Tells a worker of a task that was made for it.
    pub fn hint(&self, worker_id: WorkerId, task_id: TaskId) {
        self.call(worker_id, Some(task_id));
    }

    fn call(&self, worker_id: WorkerId, task_id: Option<TaskId>) {
        let is_here = self.local.call(worker_id, task_id, None);
        self.local.announce(Topic::Worker(worker_id));
        if !is_here {
            self.send(Message::Call { worker_id, task_id });
        }
        self.tell(Topic::Anything);
    }

    /// Tells the subscribers of a topic that it changed. Write the change to the store first.
    pub fn announce(&self, topic: Topic) {
        match topic {
            Topic::Worker(worker_id) => self.wake(worker_id),
            topic => {
                self.tell(topic);
                self.tell(Topic::Anything);
            }
        }
    }

    fn tell(&self, topic: Topic) {
        self.local.announce(topic);
        self.send(Message::Changed(topic));
    }

    fn send(&self, message: Message) {
        if let Reach::Redis(link) = &self.reach {
            link.send(message);
        }
    }

    /// Begins to listen: every change announced from now on will be noticed. Look at the store
    /// after this, then wait.
    pub fn subscribe(&self, topic: Topic) -> Subscription {
        Subscription { changes: self.local.subscribe(topic), bus: self.clone(), topic }
    }

    /// Begins to take a worker's calls; a worker has one ear at a time.
    pub fn work_of(&self, worker_id: WorkerId) -> Work {
        let subscription = self.subscribe(Topic::Worker(worker_id));
        Work::new(worker_id, subscription, self.local.open_inbox(worker_id))
    }

    /// How many topics have subscribers.
    pub fn topics_in_use(&self) -> usize {
        self.local.topics_in_use()
    }

    /// After which time without word a subscriber is told to look again.
    fn look_again(&self) -> Option<Duration> {
        match &self.reach {
            Reach::InProcess => None,
            Reach::Polling(pause) => Some(*pause),
            Reach::Redis(link) => Some(link.look_again()),
        }
    }
}

/// An ear for one topic. It costs nothing once dropped.
#[derive(Debug)]
pub struct Subscription {
    bus: Bus,
    topic: Topic,
    changes: watch::Receiver<()>,
}

/// What ended a wait.
enum Heard {
    /// It was told.
    Word,
    /// It was told nothing, and shall look nevertheless.
    LookAgain,
    /// The time is over.
    Nothing,
}

impl Subscription {
    /// Waits until something changed since the subscription, or since the last time this said so.
    pub async fn changed(&mut self, at_most: Duration) -> Changed {
        match self.heard(at_most).await {
            Heard::Word | Heard::LookAgain => Changed::Yes,
            Heard::Nothing => Changed::TimedOut,
        }
    }

    async fn heard(&mut self, at_most: Duration) -> Heard {
        let look_again = self.bus.look_again().filter(|pause| *pause < at_most);
        let told =
            tokio::time::timeout(look_again.unwrap_or(at_most), self.changes.changed()).await;
        match (told, look_again) {
            (Ok(Ok(())), _) => Heard::Word,
            (Err(_), Some(_)) => Heard::LookAgain,
            // The sender lives as long as there is a subscription: this one.
            (Ok(Err(_)) | Err(_), _) => Heard::Nothing,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.bus.local.unsubscribe(self.topic);
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
    async fn whoever_listens_to_anything_is_told_of_every_topic() {
        let bus = Bus::in_process();
        let mut anything = bus.subscribe(Topic::Anything);
        for topic in [Topic::Vm(VmId::new()), Topic::Worker(WorkerId::new())] {
            bus.announce(topic);
            assert_eq!(anything.changed(LONG).await, Changed::Yes);
        }
        assert_eq!(anything.changed(Duration::ZERO).await, Changed::TimedOut);
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
