//! A process in a guest: how it is named, listed, followed, and how it ends.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Life;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// Its time limit ended it.
    Timeout,
    /// The kernel killed it because its memory limit, or the guest's memory, was used up.
    Oom,
}

impl ExitStatus {
    /// Whether it returned 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// The code a shell would show: the code, 128 plus the signal (9 when memory ran out), or 124 for
    /// a time limit.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128_i32.saturating_add(signal),
            Self::Timeout => 124,
            Self::Oom => 137,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Timeout => f.write_str("time limit"),
            Self::Oom => f.write_str("out of memory"),
        }
    }
}

/// A process's end and what it used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// How it ended.
    pub status: ExitStatus,
    /// Milliseconds from start to end.
    pub wall_ms: u64,
    /// Milliseconds of CPU in user mode, with its waited-for children.
    pub user_ms: u64,
    /// Milliseconds of CPU in the kernel, with its waited-for children.
    pub sys_ms: u64,
    /// The most memory it held, in KiB.
    pub max_rss_kib: u64,
}

/// A process the agent started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Its id in the guest; also its group's and its session's.
    pub pid: u32,
    /// What runs; a shell line with its shell.
    pub argv: Vec<String>,
    /// The working directory asked for.
    pub cwd: Option<String>,
    /// The user asked for.
    pub user: Option<String>,
    /// The caller's name for it.
    pub tag: Option<String>,
    /// The guest's uptime in milliseconds when it started.
    pub started_uptime_ms: u64,
    /// Whose going ends it.
    pub life: Life,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// How it ended, if it has.
    pub exited: Option<ExitReport>,
}

/// Which process is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessSelector {
    /// The one with this id.
    Pid(u32),
    /// The newest one with this tag.
    Tag(String),
}

impl From<u32> for ProcessSelector {
    fn from(pid: u32) -> Self {
        Self::Pid(pid)
    }
}

impl From<&str> for ProcessSelector {
    fn from(tag: &str) -> Self {
        Self::Tag(tag.to_owned())
    }
}

impl fmt::Display for ProcessSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "process {pid}"),
            Self::Tag(tag) => write!(f, "process with tag `{tag}`"),
        }
    }
}

/// A place in each output stream of a process, or a length of each, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamOffsets {
    /// In stdout, or the terminal's output.
    pub stdout: u64,
    /// In stderr.
    pub stderr: u64,
}

/// Why a process could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpawnErrorKind {
    /// The request itself is wrong: an empty argv, a NUL byte.
    InvalidRequest,
    /// No such program.
    NotFound,
    /// The program or user may not be used.
    PermissionDenied,
    /// The working directory is missing, no directory, or closed to the user.
    BadCwd,
    /// No such user in the guest.
    UnknownUser,
    /// The guest has no process, file or memory left for it, or the agent's own limit is reached.
    ResourceLimit,
    /// Arguments and environment are longer than the kernel takes.
    TooLong,
    /// The guest has no cgroup v2 to keep the limits asked for.
    LimitsUnavailable,
    /// Anything else, as the detail says.
    Other,
}

impl SpawnErrorKind {
    const ALL: [Self; 9] = [
        Self::InvalidRequest,
        Self::NotFound,
        Self::PermissionDenied,
        Self::BadCwd,
        Self::UnknownUser,
        Self::ResourceLimit,
        Self::TooLong,
        Self::LimitsUnavailable,
        Self::Other,
    ];

    /// The stable code, as in `not_found`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::NotFound => "not_found",
            Self::PermissionDenied => "permission_denied",
            Self::BadCwd => "bad_cwd",
            Self::UnknownUser => "unknown_user",
            Self::ResourceLimit => "resource_limit",
            Self::TooLong => "too_long",
            Self::LimitsUnavailable => "limits_unavailable",
            Self::Other => "spawn_failed",
        }
    }
}

impl fmt::Display for SpawnErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A spawn error code this build does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no spawn error known to this build; the agent may be newer than the host")]
pub struct UnknownSpawnErrorKind(pub String);

impl std::str::FromStr for SpawnErrorKind {
    type Err = UnknownSpawnErrorKind;

    fn from_str(code: &str) -> Result<Self, UnknownSpawnErrorKind> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.code() == code)
            .ok_or_else(|| UnknownSpawnErrorKind(code.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spawn_error_code_reads_back_as_itself() {
        for kind in SpawnErrorKind::ALL {
            assert_eq!(kind.code().parse(), Ok(kind));
        }
        assert!("nonsense".parse::<SpawnErrorKind>().is_err());
    }

    #[test]
    fn a_shell_code_tells_signal_and_time_limit_apart() {
        assert_eq!(ExitStatus::Code(3).shell_code(), 3);
        assert_eq!(ExitStatus::Signal(9).shell_code(), 137);
        assert_eq!(ExitStatus::Timeout.shell_code(), 124);
    }
}
