//! A stand-in for Firecracker in tests: its command line, API, rules and faults, without its VMs.
//!
//! ```text
//! driver ── API socket ──► rules (which call, when, with which fields, since which version)
//!                            └─► machine: Not started ─ InstanceStart ─► Running ⇄ Paused
//!                                                     └ snapshot/load ─► Paused     │
//! driver ── vsock socket, CONNECT 9999 ──────────────────────────────► guest: an fc-agent
//! ```
//!
//! What Firecracker would refuse this refuses, in the same words, so far as they are known from its
//! sources (`src/firecracker/src/api_server`, `src/vmm/src/rpc_interface.rs`, the swagger file and the
//! change log, read at 1.16.1 and shortly after). The guest is the agent as a plain process that is
//! told what the initramfs tells it: it isolates nothing, and nothing of it is in a snapshot but its
//! configuration. As root it has a network of its own behind the TAP, and is reached over TCP too.
//!
//! # How a test sets it up
//! By the environment, or, as drivers clear it, by a JSON file beside the program as it was started,
//! `<program>.json`; see [`settings`]. A link to the program in a directory of the test's own is
//! enough to give one VM its own faults.
//!
//! # As the jailer
//! Started under the name `jailer` it does as much of Firecracker's jailer as a driver can see from
//! outside; see [`jailer`].
//!
//! # What it is not
//! It has no MMDS and counts nothing in its metrics; rate limits, CPU templates, balloon and
//! hot-plugged memory are accepted by the rules and change nothing.

mod args;
mod body;
mod cable;
mod console;
mod fault;
mod files;
mod guest;
mod initrd;
mod jailer;
mod log;
mod machine;
mod refusal;
mod rules;
mod server;
mod settings;
mod snapshot;
mod version;
mod vsock;

use crate::{args::Command, log::Log, settings::Settings};
use std::{process::ExitCode, sync::Arc};

/// Firecracker's exit codes, from `FcExitCode` in `src/vmm/src/lib.rs`.
mod exit {
    /// Anything that has no code of its own.
    pub(crate) const GENERIC: u8 = 1;
    /// A command line that cannot be understood.
    pub(crate) const ARGUMENTS: u8 = 153;
}

fn main() -> ExitCode {
    let log = Log::anonymous();
    if jailer::is_meant() {
        let Err(error) = jailer::run(std::env::args_os().skip(1));
        return fail(&log, &error, exit::GENERIC);
    }
    let settings = match Settings::find() {
        Ok(settings) => settings,
        Err(error) => return fail(&log, &error, exit::GENERIC),
    };
    let command = match args::parse(std::env::args().skip(1), settings.version) {
        Ok(command) => command,
        Err(error) => return fail(&log, &format!("ParseArguments({error:?})"), exit::ARGUMENTS),
    };
    match command {
        Command::Version => println!("Firecracker v{}\n", settings.version),
        Command::SnapshotVersion => println!("v{}", settings.version.snapshot_format()),
        Command::Serve(serve) => match settings.deal(&serve.id) {
            Ok(settings) => return run(settings, serve),
            Err(error) => return fail(&log, &error, exit::GENERIC),
        },
    }
    log.end(0);
    ExitCode::SUCCESS
}

fn run(settings: Settings, serve: args::Serve) -> ExitCode {
    let log = Arc::new(Log::new(&serve.id, None));
    // One thread: whom the kernel tells of its parent's end is decided by thread.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&log, &error.to_string(), exit::GENERIC),
    };
    match runtime.block_on(server::run(settings, serve, log.clone())) {
        Ok(()) => {
            log.end(0);
            ExitCode::SUCCESS
        }
        Err(error) => fail(&log, &error, exit::GENERIC),
    }
}

fn fail(log: &Log, error: &str, code: u8) -> ExitCode {
    eprintln!("Error: {error}");
    log.end(code);
    ExitCode::from(code)
}
