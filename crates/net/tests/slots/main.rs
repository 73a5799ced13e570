//! Slots with real packets, inside network namespaces that the tests make themselves.
//!
//! Every test is a host of its own: a thread that leaves the machine's network and mounts behind
//! before it does anything. They need root, and say so loudly where they are skipped without it.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail like tests")]

mod crashes;
mod guest;
mod host;
mod namespace;
mod policy;
mod pool;
