//! When work may run, and how soon.

use super::duration;
use aetherium_model::{
    Timestamp,
    task::{Priority, Schedule},
};
use clap::Args as ClapArgs;
use std::time::{Duration, SystemTime};

/// When work may run, and how soon.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct ScheduleArgs {
    /// How soon, beside other work: `interactive`, `normal` or `batch`.
    #[arg(long, default_value = "normal", value_name = "CLASS")]
    priority: Priority,
    /// Run it no earlier than in so much time, such as `2h`.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    run_in: Option<Duration>,
    /// Fail it if it has not started in so much time, such as `10m`.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    start_within: Option<Duration>,
}

impl ScheduleArgs {
    /// What the arguments say, from now on.
    pub(crate) fn schedule(&self) -> Schedule {
        let now = Timestamp::from(SystemTime::now());
        Schedule {
            priority: self.priority,
            run_at: self.run_in.map(|time| now.after(time)),
            deadline: self.start_within.map(|time| now.after(time)),
        }
    }
}
