//! Following a run's log: every event once, from anywhere, at the reader's pace.
//!
//! The store is the one source of events; the bus only says when there may be more. A follower
//! subscribes before it first reads, so nothing falls between; it holds one page of events, and
//! reads the next only when the reader has taken the last, so a slow reader costs no more than that.

use crate::{Error, Gateway};
use aetherium_model::output::{EventBody, OutputEvent, Stream as OutputStream};
use aetherium_queue::{Subscription, Topic};
use aetherium_store::{RunRef, StoreError};
use axum::{
    body::Body,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use bytes::Bytes;
use futures::{Stream, stream};
use http::{StatusCode, header};
use std::{collections::VecDeque, time::Duration};
use tokio::sync::OwnedSemaphorePermit;

/// Events in memory for one reader. A worker writes events of at most some ten KiB each.
const PAGE: u32 = 16;
/// Without a word from the bus, how long until the store is asked anyway.
const RECHECK: Duration = Duration::from_secs(5);

/// Answers with a run's events after the one numbered `seen`, as server-sent events.
///
/// A run that has ended and has no more is answered with 204, which tells an `EventSource` not to
/// come back.
pub(crate) async fn serve(gateway: Gateway, run: RunRef, seen: i64) -> Result<Response, Error> {
    let permit = gateway.stream_permit()?;
    let subscription = gateway.bus().subscribe(Topic::of(run));
    let ended = gateway.store().run_state(run).await?.is_terminal();
    let page = gateway.store().events(run, seen, PAGE).await?;
    if ended && page.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let keep_alive = KeepAlive::new().interval(gateway.config().keep_alive);
    let follower = Follower {
        gateway,
        run,
        seen,
        subscription,
        caught_up: page.len() < PAGE as usize,
        page: page.into(),
        ended: false,
        _permit: permit,
    };
    Ok(Sse::new(follower.events()).keep_alive(keep_alive).into_response())
}

struct Follower {
    gateway: Gateway,
    run: RunRef,
    /// The number of the last event given out.
    seen: i64,
    subscription: Subscription,
    page: VecDeque<OutputEvent>,
    /// Whether the store had no more when it was last read.
    caught_up: bool,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    fn events(self) -> impl Stream<Item = Result<Event, axum::Error>> {
        stream::unfold(self, |mut follower| async {
            match follower.next().await {
                Ok(event) => event.map(|event| (sse(&event), follower)),
                // The reader comes back by itself, with the last number it has seen.
                Err(error) => {
                    tracing::warn!(%error, run = %follower.run, "an event stream broke off");
                    None
                }
            }
        })
    }

    /// The next event, as soon as there is one; `None` after the last, or when the gateway stops.
    async fn next(&mut self) -> Result<Option<OutputEvent>, StoreError> {
        loop {
            if self.ended || self.gateway.stopping().is_cancelled() {
                return Ok(None);
            }
            if let Some(event) = self.page.pop_front() {
                self.seen = event.seq;
                self.ended = matches!(event.body, EventBody::End { .. });
                return Ok(Some(event));
            }
            if self.caught_up {
                self.wait().await;
            }
            self.read().await?;
            if self.page.is_empty() && self.is_over().await? {
                return Ok(None);
            }
        }
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        let page = self.gateway.store().events(self.run, self.seen, PAGE).await?;
        self.caught_up = page.len() < PAGE as usize;
        self.page = page.into();
        Ok(())
    }

    async fn wait(&mut self) {
        let stopping = self.gateway.stopping().clone();
        // Changed or not, the store is looked at next.
        let _ = stopping.run_until_cancelled(self.subscription.changed(RECHECK)).await;
    }

    /// Whether nothing will follow what was read: the run was removed, or had ended before the
    /// reader's number.
    async fn is_over(&mut self) -> Result<bool, StoreError> {
        match self.gateway.store().run_state(self.run).await {
            Err(StoreError::NotFound { .. }) => Ok(true),
            Err(error) => Err(error),
            Ok(state) if !state.is_terminal() => Ok(false),
            // Its end was written with its last event: what is not there now never comes.
            Ok(_) => {
                self.read().await?;
                Ok(self.page.is_empty())
            }
        }
    }
}

fn sse(event: &OutputEvent) -> Result<Event, axum::Error> {
    let kind = match &event.body {
        EventBody::Status { .. } => "status",
        EventBody::Output { .. } => "output",
        EventBody::OutputBytes { .. } => "output_bytes",
        EventBody::Build { .. } => "build",
        EventBody::Missing { .. } => "missing",
        EventBody::Truncated { .. } => "truncated",
        EventBody::End { .. } => "end",
    };
    Event::default().id(event.seq.to_string()).event(kind).json_data(event)
}

/// Answers with the output a run has written so far, as it was written.
pub(crate) async fn download(
    gateway: Gateway,
    run: RunRef,
    wanted: Option<OutputStream>,
) -> Result<Response, Error> {
    let permit = gateway.stream_permit()?;
    gateway.store().run_state(run).await?;
    let pages =
        stream::try_unfold((gateway, 0, permit), move |(gateway, seen, permit)| async move {
            let page = gateway.store().events(run, seen, PAGE).await?;
            let Some(last) = page.last().map(|event| event.seq) else {
                return Ok::<_, StoreError>(None);
            };
            Ok(Some((output_of(&page, wanted), (gateway, last, permit))))
        });
    let body = Body::from_stream(pages);
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response())
}

fn output_of(page: &[OutputEvent], wanted: Option<OutputStream>) -> Bytes {
    let mut bytes = Vec::new();
    for (stream, output) in page.iter().filter_map(|event| event.body.output()) {
        if wanted.is_none_or(|wanted| wanted == stream) {
            bytes.extend(output);
        }
    }
    bytes.into()
}
