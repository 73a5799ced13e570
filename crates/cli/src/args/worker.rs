//! Arguments of `worker` with a verb.

use super::{ListArgs, parse::duration};
use aetherium_model::WorkerId;
use clap::Subcommand;
use std::time::Duration;

/// Verbs on workers.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// List them.
    List(ListArgs),
    /// Show one.
    #[command(alias = "get")]
    Inspect {
        /// Its id.
        worker: WorkerId,
    },
    /// Let it start no more VMs; those it has go on.
    Cordon {
        /// Its id.
        worker: WorkerId,
    },
    /// Let it start no more VMs, and end those it has: a workspace's once nothing runs in it.
    Drain {
        /// Its id.
        worker: WorkerId,
        /// When to stop what is left, such as `15m`; never where absent.
        #[arg(long, value_parser = duration, value_name = "TIME")]
        deadline: Option<Duration>,
        /// Wait until nothing is left, and say how many are.
        #[arg(long)]
        wait: bool,
    },
    /// Let it start VMs again.
    Activate {
        /// Its id.
        worker: WorkerId,
    },
}
