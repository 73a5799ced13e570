//! What callers say of webhooks. The address itself is judged by the handler, which knows where the
//! operator lets webhooks point.

use super::{Check, wrong};
use crate::problem::FieldError;
use aetherium_model::{
    event::{EventFilter, MAX_FILTER_TYPES},
    webhook::Webhook,
};
use serde::{Deserialize, Serialize};

/// Asks for a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"url": "https://example.com/hook", "filter": {"types": ["vm.failed"]}}))]
pub struct CreateWebhook {
    /// Where events are posted to: http or https, at a public address unless the operator allows others.
    #[schema(max_length = 2048)]
    pub url: String,
    /// Which events; all where empty.
    #[serde(default)]
    pub filter: EventFilter,
    /// Whether it is told at once.
    #[serde(default = "yes")]
    pub active: bool,
}

const fn yes() -> bool {
    true
}

/// Changes a webhook. What is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeWebhook {
    /// Where events are posted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2048)]
    pub url: Option<String>,
    /// Which events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<EventFilter>,
    /// Whether it is told. What happens while it is not, it is never told; one that was disabled goes on
    /// where it was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
}

/// A webhook that was just made, with its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CreatedWebhook {
    /// The webhook.
    #[serde(flatten)]
    pub webhook: Webhook,
    /// What signs its deliveries. It is shown this once.
    pub secret: String,
}

impl Check for CreateWebhook {
    fn check(&self) -> Vec<FieldError> {
        check_filter(&self.filter)
    }
}

impl Check for ChangeWebhook {
    fn check(&self) -> Vec<FieldError> {
        self.filter.as_ref().map(check_filter).unwrap_or_default()
    }
}

fn check_filter(filter: &EventFilter) -> Vec<FieldError> {
    match filter.types.len() {
        types if types > MAX_FILTER_TYPES => {
            wrong("filter.types", format!("names {types} types; at most {MAX_FILTER_TYPES}"))
        }
        _ => Vec::new(),
    }
}
