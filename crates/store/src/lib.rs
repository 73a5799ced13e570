//! Aetherium's memory: workers, workspaces, VMs, prompts, executions and tasks, in SQLite or
//! PostgreSQL, behind one set of queries.
//!
//! [`Store`] is the whole of it: open it, clone it, call it. It takes and returns the types of
//! `aetherium_model`; how they are kept is nobody else's business. It has no clock: the time comes
//! in with each call, but for workers' leases, which go by the database's. It notifies nobody: that is
//! the queue's part.
//!
//! What it promises:
//! - An operation is done as a whole or not at all, whenever the process or the machine stops.
//!   When it returns, it is on the disk.
//! - A task is handed out to one claim at a time, and tasks of one serial key one at a time, in
//!   the order they were made. The second is kept by a unique index besides.
//! - The start mark ([`Store::start_run`]) is written before a guest runs a user's command, by the
//!   current claim only. A run that has it ends once ([`Store::finish_run`], or recovery as
//!   `interrupted`); it never waits again.
//! - What happens to a VM never reaches a workspace or its prompts.
//! - Each change is told in the event log ([`Store::history`]), by an entry that is written with it.
//! - No more is promised of a worker than may be, whoever asks at once ([`StoreError::NoRoom`]).
//! - What a worker does after its tenure has ended changes nothing ([`Fence`]).
//! - A log is numbered from 1 without gaps, is bounded, and its last entry says how the run ended.
//!
//! Both databases run the same statements through sqlx's `Any` driver: `$1` placeholders, TEXT
//! ids, BIGINT times in milliseconds and flags, JSON as TEXT. An update without effect holds a row
//! where PostgreSQL would otherwise let others change it; SQLite has one writer anyway. What
//! PostgreSQL ends for the sake of another change is done again (`transact.rs`), and no call waits
//! for a database that cannot be heard.

mod accept;
mod assistants;
mod backlog;
mod census;
mod connect;
mod delivery;
mod environments;
mod error;
mod event_log;
mod executions;
mod fence;
mod gone;
mod idempotency;
mod log;
mod metrics;
mod migrate;
mod page;
mod preparation;
mod prompts;
mod prune;
mod quotas;
mod reservations;
mod rotation;
mod row;
mod runs;
mod secrets;
mod task_events;
mod task_log;
mod tasks;
mod transact;
mod ttl;
mod url;
mod vms;
mod webhook_deliveries;
mod webhooks;
mod workers;
mod workspaces;

pub use census::Waiting;
pub use connect::Store;
pub use delivery::{Recovered, TaskEnd};
pub use error::StoreError;
pub use event_log::{LogBounds, MAX_EVENTS};
pub use fence::Fence;
pub use gone::Lost;
pub use idempotency::{Created, Idempotency, MAX_KEY_BYTES, REMEMBERED};
pub use preparation::Redo;
pub use prune::Pruned;
pub use rotation::Rotation;
pub use runs::{Finish, RunRef, Start};
pub use secrets::ReadSecret;
pub use tasks::TaskFilter;
pub use url::DatabaseUrl;
pub use vms::VmFilter;
pub use webhook_deliveries::Attempt;
pub use webhooks::ChangeWebhook;
pub use workers::{Beat, Orders};
