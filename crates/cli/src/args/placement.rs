//! Where VMs and workspaces are to run, on the command line.

use super::parse::{duration, label};
use aetherium_model::{
    Name,
    placement::{Placement, Preference, WhenFull},
};
use clap::Args as ClapArgs;
use std::time::Duration;

/// What a request may take besides the wait for room.
const REQUEST: Duration = Duration::from_secs(60);

/// Which worker it is to be, and what if none has room.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct PlacementArgs {
    /// The zone it must be in.
    #[arg(long, value_name = "NAME")]
    zone: Option<Name>,
    /// A label that its worker must have; may be repeated.
    #[arg(long = "worker-label", value_parser = label, value_name = "NAME=VALUE")]
    labels: Vec<(Name, Name)>,
    /// The zone it is liked best in.
    #[arg(long, value_name = "NAME")]
    prefer_zone: Option<Name>,
    /// A label that its worker is liked for; may be repeated.
    #[arg(long = "prefer-label", value_parser = label, value_name = "NAME=VALUE")]
    prefer_labels: Vec<(Name, Name)>,
    /// How long it waits where no worker has room, such as `60s`; 0s for not at all.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    queue_for: Option<Duration>,
}

impl PlacementArgs {
    /// As the model has it.
    pub(crate) fn placement(&self) -> Placement {
        let Self { zone, labels, prefer_zone, prefer_labels, .. } = self.clone();
        let preferred =
            Preference { zone: prefer_zone, labels: prefer_labels.into_iter().collect() };
        Placement { zone, labels: labels.into_iter().collect(), preferred }
    }

    /// How long its request may take with the wait.
    pub(crate) fn patience(&self) -> Duration {
        REQUEST + self.queue_for.unwrap_or_default()
    }

    /// What becomes of it where there is no room.
    pub(crate) fn when_full(&self) -> Option<WhenFull> {
        self.queue_for.map(|time| match u32::try_from(time.as_secs()).unwrap_or(u32::MAX) {
            0 => WhenFull::Fail,
            seconds => WhenFull::queue_for_s(seconds),
        })
    }
}
