//! The gateway as its callers see it: over a real listener, a real SQLite store, an in-process bus,
//! and a worker's socket that these tests answer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that is surprised shall fail"
)]

mod auth;
mod contract;
mod creates;
mod event_log;
mod events;
mod interactive;
mod lists;
mod problems;
mod readiness;
mod server;
mod service;
mod worker;
