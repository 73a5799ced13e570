//! The gateway as its callers see it: over a real listener, a real store and bus, and a worker's socket
//! that these tests answer. SQLite and a bus within the process; with `AETHERIUM_TEST_FLEET=postgres+redis`
//! those, and any store with any bus. `make test` runs them in both of these ways, and with
//! `postgres+polling`: a fleet without Redis.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that is surprised shall fail"
)]

mod auth;
mod contract;
mod creates;
mod environments;
mod event_log;
mod events;
mod interactive;
mod lists;
mod problems;
mod quotas;
mod readiness;
mod secrets;
mod server;
mod service;
mod tools;
mod webhooks;
mod worker;
