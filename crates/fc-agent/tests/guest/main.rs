//! The agent as a guest's first process, and beside an image's own init: a real kernel, emulated.
//!
//! `make test` makes what they boot in `target/test-assets`. The root file system is made here, of
//! one small program, so that nothing of a distribution helps or hinders.
// A failed step fails its test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod first_process;
mod limits;
mod machine;
mod systemd;
mod upgrades;
mod vm;
