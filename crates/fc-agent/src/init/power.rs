//! The machine's end.

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
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3_600));
    }
}
