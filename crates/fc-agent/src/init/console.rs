//! The console: where an init can say something.

use std::fs::OpenOptions;
use std::io::Write as _;

use aetherium_agent_proto::console::ConsoleLine;

/// Makes `/dev/console` the three standard descriptors. Without a console they stay as they are.
pub(super) fn open() {
    let Ok(console) = OpenOptions::new().read(true).write(true).open("/dev/console") else {
        return;
    };
    // A failed duplicate leaves the old descriptor, which is no worse than before.
    let _ = rustix::stdio::dup2_stdin(&console);
    let _ = rustix::stdio::dup2_stdout(&console);
    let _ = rustix::stdio::dup2_stderr(&console);
}

/// Writes one line, whole.
pub(super) fn say(line: &ConsoleLine) {
    let text = format!("{line}\r\n");
    // There is nowhere else to complain.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
