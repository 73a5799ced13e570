//! `aetherium`, the one host binary: the command line of Aetherium.
//!
//! - `args.rs` is the grammar, `commands/` has one file per verb.
//! - `server.rs` runs gateway and worker in one process; `up` does so until it is told to stop, `run`
//!   and the benchmarks do so for as long as they need it.
//! - `commands/roles.rs` runs the two apart, as a fleet has them.
//! - `client.rs` and `attach.rs` talk to a server, whoever runs it. Every verb that touches VMs goes
//!   through them: there is no second way in.
//! - `operations.rs` is the listener that operators of a server ask.
//! - `stdio.rs` is how everything here prints.
//! - `datadir.rs` knows where a server and its clients find each other.

#[macro_use]
mod stdio;

mod args;
mod attach;
mod client;
mod commands;
mod datadir;
mod error;
mod operations;
mod print;
mod progress;
mod server;
mod told;

use aetherium_telemetry::{LogFormat, Settings, Telemetry, TelemetryError};
use clap::Parser as _;
use std::process::ExitCode;

/// Parses the arguments, runs the verb, prints what went wrong, and says how it ended.
fn main() -> ExitCode {
    tune_allocator();
    let args = args::Args::parse();
    if args.command.only_asks() {
        stdio::end_at_once_when_unread();
    }
    aetherium_image::install_tls();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the async runtime could not be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let telemetry = match runtime.block_on(async { start_telemetry(&args) }) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(commands::dispatch(args));
    // It still needs the runtime.
    telemetry.end();
    // A thread may be waiting for standard input for ever.
    runtime.shutdown_background();
    match ended {
        Ok(code) => stdio::exit_code(code),
        Err(error) => {
            error.print();
            error.exit_code()
        }
    }
}

/// Keeps the buffers of streams in the heap. By default each one past 128 KiB would be mapped and
/// unmapped anew, which halves what a VM's output or a file's upload can reach; see
/// docs/decisions/0001-agent-rpc.md.
#[cfg(target_env = "gnu")]
fn tune_allocator() {
    const MMAP_THRESHOLD: libc::c_int = 4 << 20;
    const TRIM_THRESHOLD: libc::c_int = 16 << 20;
    // SAFETY: mallopt only sets parameters, before any other thread runs.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
    }
}

/// Other C libraries have other allocators.
#[cfg(not(target_env = "gnu"))]
fn tune_allocator() {}

/// Begins to log and, for a server that is told where to, to trace.
fn start_telemetry(args: &args::Args) -> Result<Telemetry, TelemetryError> {
    let service = args.command.service();
    aetherium_telemetry::start(&Settings {
        format: match args.log_format {
            args::LogFormat::Text => LogFormat::Text,
            args::LogFormat::Json => LogFormat::Json,
        },
        level: if args.command.is_server() { "info" } else { "error" },
        otlp_endpoint: service.and(args.otlp_endpoint.as_deref()),
        service: service.unwrap_or("aetherium"),
    })
}
