//! What callers say of the event log.

use super::{Check, wrong};
use crate::problem::FieldError;
use aetherium_model::event::{EventType, MAX_FILTER_TYPES, SubjectKind};
use aetherium_store::MAX_EVENTS;
use serde::{Deserialize, Serialize};

/// Which part of the event log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventLogQuery {
    /// Only events about this kind of thing.
    pub subject: Option<SubjectKind>,
    /// Only events about the thing of this id, or the template of this name.
    pub id: Option<String>,
    /// Only events about this workspace and what belongs to it: its id or name.
    pub workspace: Option<String>,
    /// Only events of these types, such as `vm.running,vm.failed`: at most eight.
    #[serde(rename = "type")]
    #[param(rename = "type")]
    pub kind: Option<String>,
    /// The number of the last event already seen; the Last-Event-ID header goes before it.
    #[param(minimum = 0)]
    pub after: Option<i64>,
    /// The most events on a page, 1 to 500; 100 where absent. A stream has no end.
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<u32>,
}

impl EventLogQuery {
    /// The types it names.
    ///
    /// # Errors
    /// The first that there is not.
    pub(crate) fn types(&self) -> Result<Vec<EventType>, crate::Error> {
        let named = self.kind.iter().flat_map(|it| it.split(','));
        named.map(|it| it.parse().map_err(|e: String| crate::Error::field("type", e))).collect()
    }
}

impl Check for EventLogQuery {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Some(limit) = self.limit.filter(|limit| !(1..=MAX_EVENTS).contains(limit)) {
            errors
                .extend(wrong("limit", format!("{limit} is not allowed: give 1 to {MAX_EVENTS}")));
        }
        let types = self.kind.iter().flat_map(|it| it.split(',')).count();
        if types > MAX_FILTER_TYPES {
            errors
                .extend(wrong("type", format!("names {types} types; at most {MAX_FILTER_TYPES}")));
        }
        errors
    }
}
