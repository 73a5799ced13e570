//! The delivery loop, on real stores, over every kind of bus.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures,
    reason = "helpers of tests are tests: they fail by panicking"
)]

mod clock;
mod delivery;
mod faults;
mod latency;
mod rest;
mod support;
