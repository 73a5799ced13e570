//! The agent as its host meets it: the built program, real sockets, real processes.
// A failed step fails its test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

mod archives;
mod attach;
mod connections;
mod exec;
mod faults;
mod files;
mod interleavings;
mod lines;
mod machine;
mod ports;
mod terminals;
mod transports;
mod upgrades;
mod watch;
