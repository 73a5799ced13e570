//! A worker as its tasks see it: a real store and bus, and VMs that are modelled.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures,
    reason = "helpers of tests are tests: they fail by panicking"
)]

mod leave;
mod room;
mod world;
