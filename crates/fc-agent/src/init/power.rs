//! The machine's end.
//!
//! Must never return where the first process calls it: the kernel panics without one.

use std::io;
use std::path::Path;

use aetherium_agent_proto::config::EndsBy;
use rustix::system::{RebootCommand, reboot};

/// Turns Ctrl-Alt-Del, which some VMMs press to ask for an orderly end, from a reset into a signal.
pub(super) fn take_ctrl_alt_del() {
    // Where it is refused the keys reset the machine, as they would have.
    let _ = reboot(RebootCommand::CadOff);
}

/// Ends the machine, by one way or the other. Never returns.
pub(super) fn end(ends_by: EndsBy) -> ! {
    rustix::fs::sync();
    let commands = match ends_by {
        EndsBy::PowerOff => [RebootCommand::PowerOff, RebootCommand::Restart],
        EndsBy::Restart => [RebootCommand::Restart, RebootCommand::PowerOff],
    };
    for command in commands {
        // Only a failure returns.
        let _ = reboot(command);
    }
    hold()
}

/// Leaves the machine as it is.
pub(super) fn hold() -> ! {
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3_600));
    }
}

/// Asks for the machine's end from beside its first process. systemd is asked by the signals its
/// manual names (`SIGRTMIN+4` starts `poweroff.target`, `SIGRTMIN+5` `reboot.target`); of other inits
/// none is known to listen, so the kernel is asked at once.
pub(super) fn ask(ends_by: EndsBy) -> io::Result<()> {
    if !Path::new("/run/systemd/system").is_dir() {
        end(ends_by);
    }
    let offset = match ends_by {
        EndsBy::PowerOff => 4,
        EndsBy::Restart => 5,
    };
    // SAFETY: kill takes plain numbers.
    match unsafe { libc::kill(1, libc::SIGRTMIN() + offset) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
