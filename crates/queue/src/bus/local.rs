//! The subscribers of this process, whatever the reach of the bus.

use super::{Topic, work::Inbox};
use aetherium_model::{TaskId, WorkerId};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, watch};

/// Who listens in this process, and to what.
#[derive(Debug, Default)]
pub(crate) struct Local {
    ears: Mutex<Ears>,
    /// There are other topics than there were.
    other_topics: Notify,
    /// There are other workers than there were.
    other_workers: Notify,
}

#[derive(Debug, Default)]
struct Ears {
    topics: HashMap<Topic, watch::Sender<()>>,
    inboxes: HashMap<WorkerId, Arc<Inbox>>,
    /// Topics that got their first subscriber or lost their last, while somebody asks for them: at
    /// most as many as a subscriber can make between two questions.
    turned: Option<HashSet<Topic>>,
}

impl Ears {
    fn turned(&mut self, topic: Topic) {
        if let Some(turned) = &mut self.turned {
            turned.insert(topic);
        }
    }
}

impl Local {
    /// Tells those in this process.
    pub(crate) fn announce(&self, topic: Topic) {
        if let Some(subscribers) = self.ears().topics.get(&topic) {
            subscribers.send_replace(());
        }
    }

    /// Tells everyone in this process to look: anything may have changed.
    pub(crate) fn announce_all(&self) {
        let ears = self.ears();
        ears.inboxes.values().for_each(|inbox| inbox.put(None, None));
        ears.topics.values().for_each(|subscribers| {
            subscribers.send_replace(());
        });
    }

    /// Puts a call into a worker's inbox, if the worker is in this process. Its ear has to be told.
    pub(crate) fn call(
        &self,
        worker_id: WorkerId,
        task_id: Option<TaskId>,
        receipt: Option<String>,
    ) -> bool {
        let inbox = self.ears().inboxes.get(&worker_id).cloned();
        inbox.inspect(|inbox| inbox.put(task_id, receipt)).is_some()
    }

    pub(super) fn subscribe(&self, topic: Topic) -> watch::Receiver<()> {
        let mut ears = self.ears();
        if let Some(subscribers) = ears.topics.get(&topic) {
            return subscribers.subscribe();
        }
        let (subscribers, changes) = watch::channel(());
        ears.topics.insert(topic, subscribers);
        ears.turned(topic);
        self.other_topics.notify_one();
        changes
    }

    /// Forgets a topic whose last subscriber goes.
    pub(super) fn unsubscribe(&self, topic: Topic) {
        let mut ears = self.ears();
        // Under the lock nobody else can begin or end to listen.
        if ears.topics.get(&topic).is_some_and(|it| it.receiver_count() <= 1) {
            ears.topics.remove(&topic);
            ears.turned(topic);
            self.other_topics.notify_one();
        }
    }

    pub(super) fn open_inbox(&self, worker_id: WorkerId) -> Arc<Inbox> {
        let inbox = Arc::new(Inbox::default());
        self.ears().inboxes.insert(worker_id, Arc::clone(&inbox));
        self.other_workers.notify_one();
        inbox
    }

    /// Forgets an inbox, unless the worker has another by now.
    pub(super) fn close_inbox(&self, worker_id: WorkerId, inbox: &Arc<Inbox>) {
        let mut ears = self.ears();
        if ears.inboxes.get(&worker_id).is_some_and(|it| Arc::ptr_eq(it, inbox)) {
            ears.inboxes.remove(&worker_id);
        }
    }

    /// The workers that take calls in this process.
    pub(crate) fn workers(&self) -> Vec<WorkerId> {
        self.ears().inboxes.keys().copied().collect()
    }

    /// Every topic with subscribers; from now on [`Self::turned`] tells which come and go.
    pub(crate) fn follow(&self) -> Vec<Topic> {
        let mut ears = self.ears();
        ears.turned = Some(HashSet::new());
        ears.topics.keys().copied().collect()
    }

    /// The topics that came or went since this or [`Self::follow`] was asked, each with whether it has
    /// subscribers now.
    pub(crate) fn turned(&self) -> Vec<(Topic, bool)> {
        let mut ears = self.ears();
        let turned = ears.turned.as_mut().map(std::mem::take).unwrap_or_default();
        turned.into_iter().map(|topic| (topic, ears.topics.contains_key(&topic))).collect()
    }

    /// Nobody asks which topics come and go any more.
    pub(crate) fn unfollow(&self) {
        self.ears().turned = None;
    }

    /// Waits until topics came or went since this last returned.
    pub(crate) async fn other_topics(&self) {
        self.other_topics.notified().await;
    }

    /// Waits until a worker came since this last returned.
    pub(crate) async fn other_workers(&self) {
        self.other_workers.notified().await;
    }

    pub(super) fn topics_in_use(&self) -> usize {
        self.ears().topics.len()
    }

    /// The lock is held for a few instructions, which cannot leave the maps half changed.
    fn ears(&self) -> MutexGuard<'_, Ears> {
        self.ears.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
