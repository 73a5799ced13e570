//! Work as a part of a trace.
//!
//! Every request has a trace id, whether or not anybody keeps the trace: it joins the log lines of
//! gateway and worker. Where traces are exported, the ids are those of the exported spans.

use aetherium_model::trace::{TraceId, TraceParent};
use http::HeaderMap;
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceState},
};
use std::num::{NonZeroU64, NonZeroU128};
use tracing::{Instrument as _, Span};
use tracing_opentelemetry::{OpenTelemetrySpanExt as _, SetParentError};

/// The header, and in capitals the environment variable, that carries a trace on.
pub const TRACEPARENT: &str = "traceparent";

tokio::task_local! {
    /// Where this work is where no exporter keeps spans.
    static HERE: TraceParent;
}

/// Does `work` in `span`, as a part of the trace of `parent`, or of a new one. A field `trace_id` of the
/// span is filled in.
pub fn within<W: Future>(
    span: Span,
    parent: Option<TraceParent>,
    work: W,
) -> impl Future<Output = W::Output> {
    if let Some(parent) = parent
        && let Err(error @ SetParentError::AlreadyStarted) = span.set_parent(remote(parent))
    {
        tracing::debug!(%error, "a span stays outside of its caller's trace");
    }
    let here = exported(&span).or(parent).unwrap_or_else(unsampled);
    span.record("trace_id", tracing::field::display(here.trace_id));
    HERE.scope(here, work).instrument(span)
}

/// Where in a trace the caller is, for what carries it on.
pub fn here() -> Option<TraceParent> {
    exported(&Span::current()).or_else(|| HERE.try_with(|here| *here).ok())
}

/// The trace that a request's sender carries on; none if there is no such header, or no sense in it.
pub fn parent_of(headers: &HeaderMap) -> Option<TraceParent> {
    headers.get(TRACEPARENT)?.to_str().ok()?.parse().ok()
}

/// A trace that nobody keeps: its id is for logs alone.
fn unsampled() -> TraceParent {
    TraceParent {
        trace_id: TraceId(rand::random::<NonZeroU128>()),
        span_id: rand::random::<NonZeroU64>(),
        sampled: false,
    }
}

/// The span as the exporter knows it, if it does.
fn exported(span: &Span) -> Option<TraceParent> {
    let context = span.context();
    let span = context.span();
    let known = span.span_context();
    Some(TraceParent {
        trace_id: TraceId(NonZeroU128::new(u128::from_be_bytes(known.trace_id().to_bytes()))?),
        span_id: NonZeroU64::new(u64::from_be_bytes(known.span_id().to_bytes()))?,
        sampled: known.is_sampled(),
    })
}

fn remote(parent: TraceParent) -> Context {
    let flags = if parent.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let trace_id = parent.trace_id.0.get().into();
    let span_id = SpanId::from(parent.span_id.get());
    let context = SpanContext::new(trace_id, span_id, flags, true, TraceState::default());
    Context::new().with_remote_span_context(context)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "these are tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_an_exporter_a_trace_is_carried_on_all_the_same() {
        assert_eq!(here(), None);
        let parent = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01".parse().unwrap();
        assert_eq!(within(Span::none(), Some(parent), async { here() }).await, Some(parent));
        let new = within(Span::none(), None, async { here() }).await.unwrap();
        assert!(!new.sampled && new.trace_id != parent.trace_id);
    }

    #[test]
    fn a_header_without_sense_begins_a_new_trace() {
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static(TRACEPARENT),
            http::HeaderValue::from_static("00-zz"),
        )]);
        assert_eq!(parent_of(&headers), None);
    }
}
