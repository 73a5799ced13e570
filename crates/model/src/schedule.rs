//! When tasks run, and which of those that wait is next.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How soon a task is handed out, beside others of its worker.
///
/// A class is a head start and no more: a task goes before all that were made longer after it than
/// the classes' head starts differ. So a lower class waits longer, but never for ever.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Somebody waits for it.
    Interactive,
    /// As most work.
    #[default]
    Normal,
    /// It has time.
    Batch,
}

impl Priority {
    /// Every class, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Normal, Self::Batch];

    /// The class's name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Normal => "normal",
            Self::Batch => "batch",
        }
    }

    /// How much later than an interactive task's its turn comes.
    pub const fn patience(self) -> Duration {
        match self {
            Self::Interactive => Duration::ZERO,
            Self::Normal => Duration::from_secs(30),
            Self::Batch => Duration::from_secs(300),
        }
    }

    /// The turn of a task of this class that may run from `ready` on. Of those that wait, the one
    /// with the earliest turn is next.
    pub fn turn(self, ready: Timestamp) -> Timestamp {
        ready.after(self.patience())
    }
}

impl std::str::FromStr for Priority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|class| class.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not a priority: interactive, normal or batch"))
    }
}

/// When work may run, and how soon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// How soon, beside other work of the same worker.
    #[serde(default)]
    pub priority: Priority,
    /// Not before this. Until then it holds nothing else up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Timestamp>,
    /// If it has not started by then, it fails as `deadline_exceeded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
}

impl Schedule {
    /// Whether it says nothing: now, like most work, and without a deadline.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether work can be done by it at all.
    pub fn leaves_time(&self) -> bool {
        self.deadline.is_none_or(|deadline| self.run_at.is_none_or(|run_at| run_at < deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn class() -> impl Strategy<Value = Priority> {
        proptest::sample::select(&Priority::ALL[..])
    }

    proptest! {
        #[test]
        fn of_two_made_at_once_the_more_urgent_is_next_but_none_is_overtaken_for_ever(
            (one, other) in (class(), class()), made in 0i64..1 << 40, later in 0u64..1_000_000,
        ) {
            let made = Timestamp::from_millis(made);
            prop_assert_eq!(one.turn(made) <= other.turn(made), one.patience() <= other.patience());
            let overtaken = other.turn(made.after(Duration::from_millis(later))) < one.turn(made);
            if Duration::from_millis(later) >= Priority::Batch.patience() {
                prop_assert!(!overtaken, "{other:?}, made {later} ms later, goes before {one:?}");
            }
        }
    }
}
