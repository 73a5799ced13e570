//! A run's log: followed from anywhere, every event once, or downloaded as it was written.

use crate::{
    Error, Gateway,
    sse::{self, Feed, Part, Then},
};
use aetherium_model::output::{EventBody, OutputEvent, Stream as OutputStream};
use aetherium_queue::Topic;
use aetherium_store::{RunRef, Store, StoreError};
use axum::{
    body::Body,
    response::{IntoResponse, Response, sse::Event},
};
use bytes::Bytes;
use futures::stream;
use http::header;
use std::time::Duration;

/// Events in memory for one reader. A worker writes events of at most some ten KiB each.
const PAGE: u32 = 16;

/// Answers with a run's events after the one numbered `seen`, as server-sent events.
pub(crate) async fn serve(gateway: Gateway, run: RunRef, seen: i64) -> Result<Response, Error> {
    let log = RunLog { store: gateway.store().clone(), run, seen };
    sse::serve(gateway, Topic::of(run), log).await
}

/// A run's log, read up to the event numbered `seen`.
struct RunLog {
    store: Store,
    run: RunRef,
    seen: i64,
}

impl Feed for RunLog {
    const RECHECK: Duration = Duration::from_secs(5);

    fn name(&self) -> String {
        self.run.to_string()
    }

    async fn read(&mut self) -> Result<Part, StoreError> {
        let mut page = self.store.events(self.run, self.seen, PAGE).await?;
        if page.is_empty() && self.is_over().await? {
            // Its end was written with its last event: what is not there now never comes.
            page = self.store.events(self.run, self.seen, PAGE).await?;
            if page.is_empty() {
                return Ok(Part { entries: Vec::new(), then: Then::End });
            }
        }
        let then = match page.last() {
            Some(last) if matches!(last.body, EventBody::End { .. }) => Then::End,
            _ if page.len() < PAGE as usize => Then::Wait,
            _ => Then::More,
        };
        self.seen = page.last().map_or(self.seen, |last| last.seq);
        Ok(Part { entries: page.iter().map(sse).collect(), then })
    }
}

impl RunLog {
    /// Whether the run has ended, or was removed.
    async fn is_over(&self) -> Result<bool, StoreError> {
        match self.store.run_state(self.run).await {
            Err(StoreError::NotFound { .. }) => Ok(true),
            state => Ok(state?.is_terminal()),
        }
    }
}

fn sse(event: &OutputEvent) -> Result<Event, axum::Error> {
    let kind = match &event.body {
        EventBody::Status { .. } => "status",
        EventBody::Output { .. } => "output",
        EventBody::Assistant { .. } => "assistant",
        EventBody::OutputBytes { .. } => "output_bytes",
        EventBody::Build { .. } => "build",
        EventBody::Missing { .. } => "missing",
        EventBody::Masked { .. } => "masked",
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
