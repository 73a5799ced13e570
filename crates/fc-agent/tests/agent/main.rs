//! The agent as its host meets it: the built program, real sockets, real processes.
// A failed step fails its test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

mod archives;
mod connections;
mod exec;
mod files;
mod lines;
mod machine;
mod ports;
mod transports;
mod watch;
