//! Beginning to log and to trace, once for the whole process.

use crate::{json::FlatJson, otlp};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::{io::IsTerminal as _, time::Duration};
use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer,
    fmt::{self, format::JsonFields},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::{SubscriberInitExt as _, TryInitError},
};

/// What the last spans may take to be handed over at the end.
const FLUSH: Duration = Duration::from_secs(3);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object per line.
    Json,
}

/// What shall be told, and to whom.
#[derive(Debug, Clone)]
pub struct Settings<'a> {
    /// How log lines on standard error look.
    pub format: LogFormat,
    /// What is logged where `AETHERIUM_LOG` says nothing, such as `info`.
    pub level: &'a str,
    /// The collector's base URL; no traces without it.
    pub otlp_endpoint: Option<&'a str>,
    /// The role, as traces name it.
    pub service: &'static str,
}

/// Why nothing is told.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Spans cannot be sent there.
    #[error(
        "traces cannot be sent to {url}: {reason}; name a collector's base URL, such as http://127.0.0.1:4318, with --otlp-endpoint"
    )]
    Endpoint {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody else has begun to.
    #[error("the log has begun already")]
    Begun(#[from] TryInitError),
}

/// Keeps the process's log and traces. Ended last, so that the last spans are handed over.
#[derive(Debug)]
#[must_use = "spans that wait are lost unless it is ended"]
pub struct Telemetry(Option<SdkTracerProvider>);

impl Telemetry {
    /// Hands over the spans that wait, within a few seconds. Blocks, and must not be called by a
    /// runtime's own thread.
    pub fn end(self) {
        if let Some(provider) = self.0
            && let Err(error) = provider.shutdown_with_timeout(FLUSH)
        {
            tracing::warn!(%error, "the last spans were not handed over");
        }
    }
}

/// Begins. Within a runtime, where traces are sent.
///
/// # Errors
/// [`TelemetryError`].
pub fn start(settings: &Settings<'_>) -> Result<Telemetry, TelemetryError> {
    let provider = settings.otlp_endpoint.map(|url| otlp::provider(url, settings.service));
    let provider = provider.transpose()?;
    let spans = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("aetherium"))
            .with_location(false)
            .with_threads(false)
    });
    // One filter for both. A filter of each layer's own would be asked less than once a span, and what
    // others ask in between (sqlx does) would count as its answer: spans and lines would be missing.
    let filter = filter(settings.level, provider.is_some());
    tracing_subscriber::registry()
        .with(filter)
        .with(log(settings.format))
        .with(spans)
        .try_init()?;
    Ok(Telemetry(provider))
}

/// What is told: what `AETHERIUM_LOG` says, and where spans are kept also each call to an agent, which
/// logs nothing.
fn filter(level: &str, traced: bool) -> EnvFilter {
    let filter = EnvFilter::try_from_env("AETHERIUM_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    match (traced, "aetherium_agent_client=debug".parse()) {
        (true, Ok(calls)) => filter.add_directive(calls),
        _ => filter,
    }
}

fn log<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let log = fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            log.with_target(false).with_ansi(std::io::stderr().is_terminal()).boxed()
        }
        LogFormat::Json => log.fmt_fields(JsonFields::new()).event_format(FlatJson).boxed(),
    }
}
