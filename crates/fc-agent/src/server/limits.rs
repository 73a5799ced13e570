//! How many connections there may be, proven and not.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::task::AbortHandle;

/// The most connections at once.
const MAX_CONNECTIONS: usize = 256;
/// The most of them that have not yet proven anything.
const MAX_PENDING: usize = 64;

/// The counters.
pub(crate) struct Limits {
    connections: Arc<Semaphore>,
    pending: Arc<Mutex<Pending>>,
}

#[derive(Default)]
struct Pending {
    next_id: u64,
    /// Oldest first.
    tasks: VecDeque<(u64, Option<AbortHandle>)>,
}

impl Limits {
    pub(crate) fn new() -> Self {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Self { connections, pending: Arc::default() }
    }

    /// Waits until there is no connection. While the permit is held there will be none.
    pub(crate) async fn all_gone(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.connections.acquire_many(MAX_CONNECTIONS as u32).await.ok()
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        MAX_CONNECTIONS - self.connections.available_permits()
    }

    /// Lets a connection in as pending, if need be in the place of the oldest pending one; `None`
    /// when proven ones take every place.
    pub(crate) fn admit(&self) -> Option<Admission> {
        let mut pending = lock(&self.pending);
        if pending.tasks.len() >= MAX_PENDING
            && let Some((_, Some(task))) = pending.tasks.pop_front()
        {
            task.abort();
        }
        let permit = self.connections.clone().try_acquire_owned().ok()?;
        let id = pending.next_id;
        pending.next_id += 1;
        pending.tasks.push_back((id, None));
        let place = PendingPlace { pending: self.pending.clone(), id };
        Some(Admission { place, _permit: permit })
    }
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection's right to be. Given up when dropped.
pub(crate) struct Admission {
    place: PendingPlace,
    _permit: OwnedSemaphorePermit,
}

impl Admission {
    /// The handle through which the connection can be made to give way.
    pub(crate) fn pending(&self) -> PendingHandle {
        PendingHandle { pending: self.place.pending.clone(), id: self.place.id }
    }

    /// The connection has proven itself and gives way to nobody from here on.
    pub(crate) fn prove(&self) {
        self.place.leave();
    }
}

struct PendingPlace {
    pending: Arc<Mutex<Pending>>,
    id: u64,
}

impl PendingPlace {
    fn leave(&self) {
        lock(&self.pending).tasks.retain(|(id, _)| *id != self.id);
    }
}

impl Drop for PendingPlace {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Names a pending connection.
pub(crate) struct PendingHandle {
    pending: Arc<Mutex<Pending>>,
    id: u64,
}

impl PendingHandle {
    /// Says which task to end when another connection needs the place.
    pub(crate) fn can_be_ended_by(self, task: AbortHandle) {
        let mut pending = lock(&self.pending);
        if let Some(entry) = pending.tasks.iter_mut().find(|(id, _)| *id == self.id) {
            entry.1 = Some(task);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_silent_connection_gives_way_and_a_proven_one_does_not() {
        let limits = Limits::new();
        let proven = limits.admit().unwrap();
        proven.prove();
        let silent: Vec<_> = (0..MAX_PENDING).map(|_| limits.admit().unwrap()).collect();
        let _one_more = limits.admit().unwrap();
        let first_silent = silent[0].place.id;
        let pending = lock(&limits.pending);
        assert_eq!(pending.tasks.len(), MAX_PENDING);
        assert!(pending.tasks.iter().all(|(id, _)| *id != first_silent));
    }

    #[test]
    fn proven_connections_can_take_every_place() {
        let limits = Limits::new();
        let all: Vec<_> = (0..MAX_CONNECTIONS)
            .map(|_| {
                let admission = limits.admit().unwrap();
                admission.prove();
                admission
            })
            .collect();
        assert!(limits.admit().is_none());
        drop(all);
        assert!(limits.admit().is_some());
    }
}
