//! One try: the event is posted, signed, and the receiver's status is all that is taken of its answer.

use super::guard::{Guard, Refused};
use crate::WebhookPolicy;
use aetherium_model::{
    DeliveryId, Timestamp, WebhookId,
    event::Event,
    webhook::{Refusal, SIGNATURE_HEADER, Tried, WebhookSecret},
};
use aetherium_store::Attempt;
use http::{StatusCode, header};
use serde::Serialize;
use std::sync::Arc;

/// What a receiver gets.
#[derive(Debug, Serialize)]
struct Payload<'a> {
    /// The same at every try.
    id: DeliveryId,
    webhook_id: WebhookId,
    event: &'a Event,
}

/// Speaks to receivers.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    http: reqwest::Client,
    guard: Guard,
}

impl Sender {
    pub(crate) fn new(policy: &WebhookPolicy) -> Result<Self, reqwest::Error> {
        // The provider of the whole process; whoever was first has set the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let guard = Guard { allow_private: policy.allow_private };
        let http = reqwest::Client::builder()
            .dns_resolver(Arc::new(guard))
            // Neither a receiver nor the environment may send it elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(policy.timeout)
            .connect_timeout(policy.timeout / 2)
            .pool_max_idle_per_host(1)
            .user_agent(concat!("aetherium/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { http, guard })
    }

    /// Tries once.
    pub(crate) async fn send(
        &self,
        attempt: &Attempt,
        secret: &WebhookSecret,
        now: Timestamp,
    ) -> Tried {
        let delivery = &attempt.delivery;
        let url = match self.guard.check(&attempt.url) {
            Ok(url) => url,
            Err(refused) => return never(&refused),
        };
        let (id, webhook_id) = (delivery.id, delivery.webhook_id);
        let payload = Payload { id, webhook_id, event: &delivery.event };
        let body = match serde_json::to_vec(&payload) {
            Ok(body) => body,
            Err(error) => return refused(None, error.to_string()),
        };
        let request = self
            .http
            .post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(SIGNATURE_HEADER, secret.sign(now, &body))
            .header("aetherium-delivery", id.to_string())
            .header("aetherium-event", delivery.event.kind.as_str())
            .body(body);
        match request.send().await {
            // Its body is not read: it may have no end.
            Ok(answer) => judge(answer.status()),
            Err(error) => broken(&error),
        }
    }
}

fn judge(status: StatusCode) -> Tried {
    let code = Some(status.as_u16());
    if status.is_success() {
        Tried::Taken
    } else if status == StatusCode::GONE {
        let detail = "it answered 410 Gone: it wants no more".to_owned();
        Tried::Gone(Refusal { status: code, detail })
    } else if status.is_redirection() {
        refused(code, format!("it answered {status}, and redirects are not followed"))
    } else {
        refused(code, format!("it answered {status}"))
    }
}

fn broken(error: &reqwest::Error) -> Tried {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        if let Some(private @ Refused::Private(_)) = source.downcast_ref() {
            return never(private);
        }
        deepest = source;
    }
    let detail = match error.is_timeout() {
        true => "it did not answer in time".to_owned(),
        false => format!("it cannot be reached: {deepest}"),
    };
    refused(None, detail)
}

const fn refused(status: Option<u16>, detail: String) -> Tried {
    Tried::Refused(Refusal { status, detail })
}

/// It may not be spoken to, now or later.
fn never(why: &Refused) -> Tried {
    Tried::Gone(Refusal { status: None, detail: why.to_string() })
}
