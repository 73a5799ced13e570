//! What the kernel says about ended children, and signals to groups.

use std::io;

use tokio::time::Instant;

use super::children::Exit;

/// Why there is no zombie.
pub(super) enum Nothing {
    /// Children run, none has ended.
    NotYet,
    NoChildren,
}

/// The id of a child that has ended, left unreaped.
pub(super) fn next_zombie() -> Result<u32, Nothing> {
    // SAFETY: an all-zero siginfo is a valid value to be overwritten.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is valid for writing for the length of the call.
    if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) } != 0 {
        return Err(Nothing::NoChildren);
    }
    // SAFETY: waitid filled the fields of a SIGCHLD, or left the zeros.
    let pid = unsafe { info.si_pid() };
    if pid == 0 { Err(Nothing::NotYet) } else { Ok(pid.unsigned_abs()) }
}

/// Reaps a child that has ended.
pub(super) fn wait(pid: u32) -> Option<Exit> {
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid value to be overwritten.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let pid = libc::pid_t::try_from(pid).ok()?;
    // SAFETY: both pointers are valid for writing for the length of the call.
    let waited = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) };
    (waited == pid).then(|| Exit {
        status,
        user_ms: millis(usage.ru_utime),
        sys_ms: millis(usage.ru_stime),
        max_rss_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
        at: Instant::now(),
    })
}

fn millis(time: libc::timeval) -> u64 {
    time.tv_sec.unsigned_abs() * 1_000 + time.tv_usec.unsigned_abs() / 1_000
}

/// Signals a child's group. The caller holds the table, so that the group is the child's.
pub(super) fn kill_group(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: kill takes plain numbers.
    if unsafe { libc::kill(-pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
