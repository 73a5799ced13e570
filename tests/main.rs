//! Whole-system tests: the real program, real VMs, as a user meets them. One binary.
//!
//! `make test` makes what they boot: the template and the agent in `target/test-assets`. Each test
//! has a data directory of its own and leaves no process behind, whether it passes or not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod assistants;
mod boot_failures;
mod command_line;
mod crash;
mod deploy;
mod drivers;
mod environments;
mod faults;
mod fleet;
mod git_server;
mod hibernation;
mod host;
mod images;
mod indicators;
mod kernels;
mod layout;
mod lifetimes;
mod login;
mod operations;
mod postgres;
mod preparation;
mod recipes;
mod runs;
mod secrets;
mod seed;
mod server;
mod simulated;
mod snapshots;
mod ssh_server;
mod story;
mod templates;
mod tools;
mod transports;
mod tuning;
mod userlands;
mod workspaces;
mod world;
