//! Which ports are listened on, told as they open and close.
//!
//! The kernel tells nobody when a socket begins to listen, so its tables are read again and again,
//! for each watcher and only while it watches.

use std::collections::BTreeSet;
use std::time::Duration;

use aetherium_agent_proto::Refusal;
use aetherium_agent_proto::ports::{ListeningPort, PortEvent};
use tokio::sync::mpsc;

use super::{QUEUE, proc_net};
use crate::refuse::OrRefuse as _;

/// How often to look where a request does not say.
const EVERY: Duration = Duration::from_millis(500);
/// Looking more often costs more than it tells.
const MIN_EVERY: Duration = Duration::from_millis(50);

/// Watches until the reader leaves.
pub(super) fn watch(every: Option<Duration>) -> mpsc::Receiver<Result<PortEvent, Refusal>> {
    let every = every.unwrap_or(EVERY).max(MIN_EVERY);
    let (sender, events) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        tokio::select! {
            Err(refusal) = tell(&sender, every) => {
                let _ = sender.send(Err(refusal)).await;
            }
            () = sender.closed() => {}
        }
    });
    events
}

/// Ends with a refusal only; a reader that has left ends it from outside.
async fn tell(
    sender: &mpsc::Sender<Result<PortEvent, Refusal>>,
    every: Duration,
) -> Result<(), Refusal> {
    let mut known = BTreeSet::new();
    let mut first = true;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = look()?;
        let closed = known.difference(&now).copied().map(PortEvent::Closed);
        let opened = now.difference(&known).copied().map(PortEvent::Opened);
        let caught_up = std::mem::take(&mut first).then_some(PortEvent::CaughtUp);
        for event in closed.chain(opened).chain(caught_up) {
            let _ = sender.send(Ok(event)).await;
        }
        known = now;
    }
}

fn look() -> Result<BTreeSet<ListeningPort>, Refusal> {
    let mut found = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match std::fs::read_to_string(table) {
            Ok(text) => found.extend(proc_net::listening(&text)),
            // A guest without IPv6 has no table of it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).or_refuse(format_args!("{table} cannot be read")),
        }
    }
    Ok(found)
}
