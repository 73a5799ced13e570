//! Server-sent events: what every stream of them has in common. What it streams is a [`Feed`].
//!
//! The store is the one source of entries; the bus only says when there may be more. A stream
//! subscribes before it first reads, so nothing falls between; it holds one page of entries, and
//! reads the next only when the reader has taken the last, so a slow reader costs no more than that.

use crate::{Error, Gateway};
use aetherium_queue::{Subscription, Topic};
use aetherium_store::StoreError;
use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use futures::{Stream, stream};
use http::StatusCode;
use std::{collections::VecDeque, time::Duration};
use tokio::sync::OwnedSemaphorePermit;

/// What comes next, for a reader who has all that came before.
pub(crate) struct Part {
    /// Entries, ready to be sent.
    pub(crate) entries: Vec<Result<Event, axum::Error>>,
    /// What there is after them.
    pub(crate) then: Then,
}

/// What there is after a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// There may be more already.
    More,
    /// Nothing yet.
    Wait,
    /// Nothing any more.
    End,
}

/// Something to follow. It knows how far it was read.
pub(crate) trait Feed: Send + 'static {
    /// Without a word from the bus, how long until it is read anyway.
    const RECHECK: Duration;

    /// What it is, for the log.
    fn name(&self) -> String;

    /// Reads on.
    fn read(&mut self) -> impl Future<Output = Result<Part, StoreError>> + Send;
}

/// Answers with a feed, whose changes `topic` tells of.
///
/// One that has ended and has no more is answered with 204, which tells an `EventSource` not to come
/// back.
pub(crate) async fn serve<F: Feed>(
    gateway: Gateway,
    topic: Topic,
    mut feed: F,
) -> Result<Response, Error> {
    let permit = gateway.stream_permit()?;
    let subscription = gateway.bus().subscribe(topic);
    let Part { entries, then } = feed.read().await?;
    if entries.is_empty() && then == Then::End {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let keep_alive = KeepAlive::new().interval(gateway.config().keep_alive);
    let follower =
        Follower { gateway, feed, subscription, page: entries.into(), then, _permit: permit };
    Ok(Sse::new(follower.entries()).keep_alive(keep_alive).into_response())
}

struct Follower<F> {
    gateway: Gateway,
    feed: F,
    subscription: Subscription,
    page: VecDeque<Result<Event, axum::Error>>,
    then: Then,
    _permit: OwnedSemaphorePermit,
}

impl<F: Feed> Follower<F> {
    fn entries(self) -> impl Stream<Item = Result<Event, axum::Error>> {
        stream::unfold(self, |mut follower| async {
            match follower.next().await {
                Ok(entry) => entry.map(|entry| (entry, follower)),
                // The reader comes back by itself, with the last number it has seen.
                Err(error) => {
                    let feed = follower.feed.name();
                    tracing::warn!(%error, feed, "an event stream broke off");
                    None
                }
            }
        })
    }

    /// The next entry, as soon as there is one; `None` after the last, or when the gateway stops.
    async fn next(&mut self) -> Result<Option<Result<Event, axum::Error>>, StoreError> {
        loop {
            if self.gateway.stopping().is_cancelled() {
                return Ok(None);
            }
            if let Some(entry) = self.page.pop_front() {
                return Ok(Some(entry));
            }
            match self.then {
                Then::End => return Ok(None),
                Then::Wait => self.wait().await,
                Then::More => {}
            }
            let Part { entries, then } = self.feed.read().await?;
            (self.page, self.then) = (entries.into(), then);
        }
    }

    async fn wait(&mut self) {
        let stopping = self.gateway.stopping().clone();
        // Changed or not, the store is looked at next.
        let _ = stopping.run_until_cancelled(self.subscription.changed(F::RECHECK)).await;
    }
}
