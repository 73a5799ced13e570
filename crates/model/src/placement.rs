//! Where something is to run, and what becomes of it where there is no room: as its creator says.

use crate::{name::Name, setup::merge::both, worker::Labels};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Which workers may have it, and which are liked best.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"zone": "a", "labels": {"disk": "nvme"}}))]
pub struct Placement {
    /// The zone it must be in; any where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Name>,
    /// Labels that its worker must have.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// What is liked: it decides between workers that are about as full.
    #[serde(default, skip_serializing_if = "Preference::is_empty")]
    pub preferred: Preference,
}

impl Placement {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This, with what `over` says going before it.
    #[must_use]
    pub fn with(&self, over: &Self) -> Self {
        Self {
            zone: over.zone.clone().or_else(|| self.zone.clone()),
            labels: both(&self.labels, &over.labels),
            preferred: Preference {
                zone: over.preferred.zone.clone().or_else(|| self.preferred.zone.clone()),
                labels: both(&self.preferred.labels, &over.preferred.labels),
            },
        }
    }
}

/// What is liked of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Preference {
    /// Its zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Name>,
    /// Its labels; the more of them the better.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

impl Preference {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of something that no worker has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(example = json!({"queue_for_s": 60}))]
pub enum WhenFull {
    /// It fails at once, as `no_capacity`.
    Fail,
    /// It waits for so many seconds, then fails.
    #[serde(untagged)]
    Queue(Queued),
}

/// How long something waits for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Queued {
    /// Seconds.
    #[schema(minimum = 1, maximum = 300)]
    pub queue_for_s: u32,
}

impl WhenFull {
    /// The longest wait, in seconds.
    pub const MAX_S: u32 = 300;
    /// What holds for a prompt whose workspace does not say: its VM usually fits soon.
    pub const OF_PROMPTS: Self = Self::queue_for_s(60);

    /// Waits for so many seconds.
    pub const fn queue_for_s(queue_for_s: u32) -> Self {
        Self::Queue(Queued { queue_for_s })
    }

    /// How long it waits.
    pub const fn patience(self) -> Duration {
        match self {
            Self::Fail => Duration::ZERO,
            Self::Queue(Queued { queue_for_s }) => Duration::from_secs(queue_for_s as u64),
        }
    }

    /// What is wrong with it, if anything.
    pub fn problem(self) -> Option<String> {
        match self {
            Self::Queue(Queued { queue_for_s }) if !(1..=Self::MAX_S).contains(&queue_for_s) => {
                Some(format!("{queue_for_s} is not allowed: give 1 to {} seconds", Self::MAX_S))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_becomes_of_it_is_a_word_or_a_time() {
        let read = |value| serde_json::from_value::<WhenFull>(value);
        assert_eq!(read(json!("fail")).unwrap(), WhenFull::Fail);
        assert_eq!(read(json!({"queue_for_s": 5})).unwrap(), WhenFull::queue_for_s(5));
        assert_eq!(serde_json::to_value(WhenFull::Fail).unwrap(), json!("fail"));
        assert_eq!(
            serde_json::to_value(WhenFull::queue_for_s(5)).unwrap(),
            json!({"queue_for_s": 5})
        );
        for bad in [json!("wait"), json!({"queue_for_s": -1}), json!({"queue": 1}), json!(7)] {
            read(bad).unwrap_err();
        }
        assert!(WhenFull::queue_for_s(301).problem().unwrap().contains("301"));
    }
}
