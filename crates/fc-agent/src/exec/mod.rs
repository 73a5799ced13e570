//! Running commands: starting them, following them, reaping them.
//!
//! ```text
//! start ──► spawn (checks) ──► launch (clone … exec) ──► Children table ──► supervisor task
//!                                                             ▲                  │ output
//!                                            SIGCHLD ──► reap ┘                  ▼
//!                                            callers ◄── Reader ◄── Process (log, input, end)
//! ```
//!
//! Owns every child of the agent from start to wait, and what is remembered of it. Must never hold
//! more output than a log's bounds: a pipe its starter does not read is left full, so that its writer
//! waits.

mod cgroup;
mod children;
mod descriptor;
mod handover;
mod launch;
mod log;
mod process;
mod spawn;
mod supervise;
mod terminal;
mod user;
mod wait;

use std::time::Duration;

pub(crate) use children::{AttachError, Children, Phase, SignalError, reap_forever};
pub(crate) use handover::{Saved, SavedProcess};
pub(crate) use log::StreamId;
pub(crate) use process::{Event, Reader, StdinError, Writer};
pub(crate) use user::{Accounts, User};

/// How long a reader that was handed over may take to come back. One that is busy elsewhere notices
/// only when it reads on.
const RETURN_TIME: Duration = Duration::from_secs(120);
