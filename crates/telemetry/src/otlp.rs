//! Spans on their way to a collector, by OTLP over HTTP.
//!
//! They wait in a bounded queue of the library's and are dropped where the collector is too slow or
//! gone: see `OTEL_BSP_MAX_QUEUE_SIZE` and the other variables of the OpenTelemetry specification, which
//! the library reads.

use crate::TelemetryError;
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use std::time::Duration;
use tokio::runtime::Handle;

/// What handing over one batch may take.
const EXPORT: Duration = Duration::from_secs(10);

/// What gives spans to the collector at `endpoint`, under the name of `service`. Must be called within
/// a runtime, which then does the sending.
pub(crate) fn provider(
    endpoint: &str,
    service: &'static str,
) -> Result<SdkTracerProvider, TelemetryError> {
    let refused = |reason: String| TelemetryError::Endpoint { url: endpoint.to_owned(), reason };
    let runtime = Handle::try_current().map_err(|error| refused(error.to_string()))?;
    let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    let url: reqwest::Url = url.parse().map_err(|error| refused(format!("{error}")))?;
    // The provider of the whole process; whoever was first has set the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(EXPORT).build();
    let client = client.map_err(|error| refused(error.to_string()))?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_http_client(Client { client, runtime })
        .with_endpoint(url)
        .with_timeout(EXPORT)
        .build()
        .map_err(|error| refused(error.to_string()))?;
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(service);
    }
    Ok(SdkTracerProvider::builder()
        .with_resource(resource.build())
        .with_batch_exporter(exporter)
        .build())
}

/// Sends from a thread of the library's over the role's own runtime.
#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            let answer = client.execute(request.try_into()?).await?;
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = answer.status();
            *response.headers_mut() = answer.headers().clone();
            *response.body_mut() = answer.bytes().await?;
            Ok::<_, reqwest::Error>(response)
        });
        Ok(sent.await??)
    }
}
