//! Real VMMs with real guests: boots, ends, adoption, strays, and what keeps a VMM from starting.
//!
//! Needs QEMU, a C compiler with a static C library, and a kernel: see [`guest::kernel`].

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod adoption;
mod consoles;
mod failures;
mod firecracker_failures;
mod guest;
mod lives;
mod processes;
mod vsock;
