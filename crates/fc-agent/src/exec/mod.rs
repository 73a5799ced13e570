//! Running commands: starting them, following them, reaping them.
//!
//! ```text
//! start ──► spawn (fork, own session, user, cwd, exec) ──► Children table ──► supervise task
//!                                                               ▲                 │ events, bounded
//!                                              SIGCHLD ──► reap ┘                 ▼ caller
//! ```
//!
//! Owns every child of the agent from fork to wait. Must never hold more output than a few chunks:
//! a pipe nobody reads is left full, so that its writer waits.

mod children;
mod spawn;
mod supervise;
mod user;

pub(crate) use children::{Children, SignalError, reap_forever};
pub(crate) use supervise::{ChildEvent, Running, start};
pub(crate) use user::{Accounts, User};
