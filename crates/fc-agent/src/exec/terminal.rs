//! Pseudo-terminals.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use aetherium_agent_proto::TerminalSize;
use rustix::pty::{OpenptFlags, openpt, unlockpt};
use rustix::termios::Winsize;

/// A new terminal's two ends.
pub(super) struct Ends {
    /// The agent's: what is written here is typed, what is read was printed. Does not block.
    pub(super) agent: OwnedFd,
    /// The process's.
    pub(super) process: OwnedFd,
}

pub(super) fn open(size: TerminalSize) -> io::Result<Ends> {
    let agent = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&agent)?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // By descriptor and not by name: whatever is mounted on /dev/pts, it is the other end of this one.
    // SAFETY: TIOCGPTPEER takes open flags and returns a new descriptor.
    let process = unsafe { libc::ioctl(agent.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if process < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened and belongs to nobody else.
    let process = unsafe { OwnedFd::from_raw_fd(process) };
    rustix::io::ioctl_fionbio(&agent, true)?;
    resize(&agent, size)?;
    Ok(Ends { agent, process })
}

/// Gives a terminal a new size; the kernel tells its processes.
pub(super) fn resize(agent_end: &OwnedFd, size: TerminalSize) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(agent_end, size)?)
}
