//! The guest agent.
//!
//! As the kernel's first process (`/init` of an initramfs) it finds the root file system, switches
//! to it and serves as PID 1; started by hand it just serves. One program, so that the agent in a
//! guest is always the one its host put there.
//!
//! ```text
//! main ─┬─ init ──► serve ──► power off        PID 1
//!       └─ cli ───► serve ──► exit             otherwise: by hand, by an image's own init, or in the
//!                                              place of a former program
//! ```
//!
//! Must never exit or panic as PID 1: the kernel would panic with it and say nothing of use.
#![cfg_attr(not(test), no_main)]
// Without the entry below, which a test build replaces, most of the program is unreachable.
#![cfg_attr(test, allow(dead_code))]

mod actor;
mod cli;
mod clock;
mod exec;
mod files;
mod init;
mod ports;
mod refuse;
mod serve;
mod server;
mod system;
mod upgrade;

/// The program's entry.
///
/// The standard library's own entry aborts when the three standard descriptors are closed and
/// `/dev/null` is missing, which is how a kernel starts an init from a bare initramfs. So this one
/// does without it; arguments and environment are still there.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main() -> libc::c_int {
    ignore_sigpipe();
    tune_allocator();
    let args: Vec<String> =
        std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let serves_by_hand = args.iter().any(|arg| arg == "--listen" || arg == "--resume");
    if std::process::id() == 1 && !serves_by_hand {
        init::run();
    }
    cli::run(args)
}

/// A peer that hangs up must be an error of one write, not the end of the agent.
fn ignore_sigpipe() {
    // SAFETY: setting a disposition to "ignore" involves no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Keeps the buffers of streams in the heap. By default each one past 128 KiB would be mapped and
/// unmapped anew, which costs more than moving its bytes.
fn tune_allocator() {
    const MMAP_THRESHOLD: libc::c_int = 4 << 20;
    const TRIM_THRESHOLD: libc::c_int = 2 << 20;
    // Threads come and go; an arena for each would keep memory that no other uses.
    const ARENAS: libc::c_int = 1;
    // SAFETY: mallopt only sets parameters, before any other thread runs.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}
