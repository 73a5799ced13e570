//! The store's promises, on a real database.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures,
    reason = "helpers of tests are tests: they fail by panicking"
)]

mod accept;
mod assistants;
mod claims;
mod crash;
mod deletion;
mod environments;
mod event_log;
mod fleet;
mod hibernation;
mod idempotency;
mod lists;
mod migrations;
mod model;
mod postgres;
mod preparation;
mod quotas;
mod runs;
mod secrets;
mod support;
mod ttl;
mod upgrades;
mod webhooks;
