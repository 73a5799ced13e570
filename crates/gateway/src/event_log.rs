//! The event log as a stream: resumed at any gateway by the number of the last event seen.

use crate::{
    Error, Gateway,
    sse::{self, Feed, Part, Then},
};
use aetherium_model::event::{Event, EventFilter};
use aetherium_queue::Topic;
use aetherium_store::{Store, StoreError};
use axum::response::{Response, sse::Event as Sse};
use serde::Serialize;
use std::time::Duration;
use tokio::time::sleep;

/// Events in memory for one reader; each has at most some two KiB.
const PAGE: u32 = 64;
/// The least time between two looks at a log that had nothing new: while much happens at once, what
/// happened is read together.
const BREATH: Duration = Duration::from_millis(20);

/// Told, as the event `missing`, to a reader who comes back too late: what it has not seen up to
/// this event is forgotten.
#[derive(Debug, Serialize)]
struct Missing {
    oldest: i64,
}

/// Answers with the events after the one numbered `seen` that meet `filter`, as they happen.
pub(crate) async fn serve(
    gateway: Gateway,
    filter: EventFilter,
    seen: i64,
) -> Result<Response, Error> {
    let log = EventLog { store: gateway.store().clone(), filter, seen, begun: false };
    sse::serve(gateway, Topic::Anything, log).await
}

/// The log, read up to the event numbered `seen`.
struct EventLog {
    store: Store,
    filter: EventFilter,
    seen: i64,
    begun: bool,
}

impl Feed for EventLog {
    // Workers and other gateways write to it too, and what they announce may be lost.
    const RECHECK: Duration = Duration::from_secs(1);

    fn name(&self) -> String {
        "event log".to_owned()
    }

    async fn read(&mut self) -> Result<Part, StoreError> {
        if self.begun {
            sleep(BREATH).await;
        }
        let page = self.store.history(&self.filter, self.seen, PAGE).await?;
        let mut entries: Vec<_> = page.items.iter().map(entry).collect();
        if page.oldest > self.seen + 1 && self.seen > 0 {
            let missing = Missing { oldest: page.oldest };
            entries.insert(0, Sse::default().event("missing").json_data(missing));
        }
        let then = if page.items.len() < PAGE as usize { Then::Wait } else { Then::More };
        (self.seen, self.begun) = (page.reached.max(self.seen), then == Then::Wait);
        Ok(Part { entries, then })
    }
}

fn entry(event: &Event) -> Result<Sse, axum::Error> {
    Sse::default().id(event.seq.to_string()).event(event.kind.as_str()).json_data(event)
}
