//! Servers that tests start for themselves, from the packages that `make test` installs. Never
//! shipped: only tests may depend on this.
//!
//! A server belongs to the process that started it and never outlives it, however that process
//! ends. Nothing here touches a server of the machine's own. What cannot be had fails the test that
//! asked for it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "for tests, which fail by panicking")]

mod postgres;
mod redis;

pub use postgres::Postgres;
pub use redis::Redis;
