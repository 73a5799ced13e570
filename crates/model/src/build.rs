//! What a template's build tells while it is under way.

use crate::output::{EventBody, Stream};
use serde::{Deserialize, Serialize};

/// One thing that happened. Steps are numbered from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum BuildEvent {
    /// The base is there.
    Planned {
        /// How many steps follow.
        steps: usize,
    },
    /// A step begins.
    StepStarted {
        /// Its number.
        step: usize,
        /// What it does, in a line.
        label: String,
    },
    /// A step had been done before, on the same base and after the same steps.
    StepCached {
        /// Its number.
        step: usize,
        /// What it does, in a line.
        label: String,
    },
    /// A step's command wrote something.
    Output {
        /// The step's number.
        step: usize,
        /// Where to.
        stream: Stream,
        /// What; bytes that are no text are replaced.
        text: String,
    },
    /// A step is done.
    StepEnded {
        /// Its number.
        step: usize,
        /// Milliseconds it took.
        wall_ms: u64,
    },
}

impl From<BuildEvent> for EventBody {
    /// As a log has it: what a step prints is output like any other, and counts as that.
    fn from(event: BuildEvent) -> Self {
        match event {
            BuildEvent::Output { stream, text, .. } => Self::Output { stream, text },
            event => Self::Build { event },
        }
    }
}
