//! The fake, held against what Firecracker's swagger file, sources and change log say.
//!
//! Needs the agent: `AETHERIUM_AGENT`, or what `make assets` provides.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod calls;
mod faults;
mod harness;
mod initramfs;
mod lives;
mod network;
mod real;
mod snapshots;
mod vsock;
