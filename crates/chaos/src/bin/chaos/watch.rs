//! Looks at the agents that live, several times a second.

use crate::procfs;
use chaos::evidence::Life;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::task::JoinHandle;

/// Half of the shortest time that two VMs could share a workspace without being seen; a look takes
/// some milliseconds.
const LOOK: Duration = Duration::from_millis(150);
/// The agent's name. What it starts carries the mark too, and may be a moment late to end.
const AGENT: &str = "fc-agent";

/// Watches until it is dropped.
pub(crate) struct Watch {
    seen: Arc<Mutex<BTreeMap<String, Life>>>,
    looking: JoinHandle<()>,
}

impl Watch {
    pub(crate) fn start() -> Self {
        let seen: Arc<Mutex<BTreeMap<String, Life>>> = Arc::default();
        let noted = Arc::clone(&seen);
        let looking = tokio::spawn(async move {
            loop {
                let noted = Arc::clone(&noted);
                // Its panic would have been printed; the next look is as good.
                let _ = tokio::task::spawn_blocking(move || look(&noted)).await;
                tokio::time::sleep(LOOK).await;
            }
        });
        Self { seen, looking }
    }

    /// What has been seen until now.
    pub(crate) fn lives(&self) -> Vec<Life> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

/// All of one look have the same time: who is seen last in one and who is seen first in it did not
/// live together for all that can be told.
fn look(seen: &Mutex<BTreeMap<String, Life>>) {
    let now = procfs::now_ms();
    let agents = procfs::of_vms().into_iter().filter(|it| it.name == AGENT);
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    for agent in agents {
        let fresh = || Life { vm: agent.vm.clone(), first_ms: now, last_ms: now };
        seen.entry(agent.vm.clone()).or_insert_with(fresh).last_ms = now;
    }
}
