//! Delivery of tasks: wake-ups, live notifications, and the worker's delivery loop.
//!
//! The store's tasks are the truth; this crate only makes sure that whoever should look at them
//! does so soon. Losing every notification delays work by at most [`IDLE_POLL`] and loses none.
//!
//! - [`Bus`] tells that something changed: in this process, or by way of Redis in all of a fleet.
//! - [`Queue`] is for gateway and worker: it writes to the store, then tells the bus.
//! - [`Consumer`] is the worker's loop: it claims tasks, gives them to a [`Handler`], holds their
//!   leases, and writes what became of them.
//!
//! Delivery is at least once: a task whose worker was lost is handed out again, unless it carries
//! the start mark of a user's command; then it ends as interrupted.

mod bus;
mod clock;
mod consumer;
mod fleet;
mod handler;
mod metrics;
mod queue;
mod redis;
mod rest;
mod settle;

pub use bus::{Bus, Calls, Changed, Subscription, Topic, Work};
pub use consumer::{Consumer, IDLE_POLL};
pub use handler::{Handler, Outcome, TaskContext};
pub use queue::Queue;
pub use redis::{BadRedisUrl, Health};
pub use rest::Resting;
