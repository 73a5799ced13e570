//! Breaks a fleet while prompts run in it, writes down what it sees, and has `chaos-check` judge that.
//!
//! - `args.rs` is the command line, and how the program puts itself into namespaces of its own.
//! - `network.rs` gives each process of the fleet a network that can be cut, `relay.rs` stands in it for
//!   PostgreSQL and Redis.
//! - `fleet.rs` starts and ends the processes, `faults.rs` does to them what the plan says.
//! - `client.rs` sends the prompts, `watch.rs` looks at VMs' processes, `collect.rs` at what is left.
//!
//! It runs in a process namespace of its own: however it ends, nothing of the fleet outlives it.

mod args;
mod client;
mod collect;
mod error;
mod faults;
mod fleet;
mod network;
mod procfs;
mod relay;
mod run;
mod watch;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let ended = if args.is_inside() {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(error::Error::io("start", "the async runtime"))
            .and_then(|runtime| runtime.block_on(run::run(&args)))
    } else {
        args.enter()
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
