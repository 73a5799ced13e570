//! A command in a guest: what to run, and what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds between TERM and KILL where a request does not say.
pub const DEFAULT_KILL_GRACE_MS: u64 = 2_000;

/// A command to run in the guest.
///
/// The environment is what `env` says on top of `HOME`, `USER`, `LOGNAME`, `SHELL` and `PATH` for
/// the user; nothing of the agent's own environment is passed on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// The program, searched in `PATH` when it holds no slash, and its arguments. Not empty.
    pub argv: Vec<String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// The working directory; the user's home where it exists, else `/`.
    pub cwd: Option<String>,
    /// A user name or numeric id, resolved by the guest's own `/etc/passwd`; the agent's user if none.
    pub user: Option<String>,
    /// The time limit in milliseconds, enforced in the guest; none if absent.
    pub timeout_ms: Option<u64>,
    /// Milliseconds between TERM and KILL; [`DEFAULT_KILL_GRACE_MS`] if absent.
    pub kill_grace_ms: Option<u64>,
    /// Whether stdin is a pipe; `/dev/null` otherwise.
    pub stdin: bool,
    /// A name of the caller's choice, shown in the process list.
    pub tag: Option<String>,
}

impl ExecSpec {
    /// A command with everything else at its default.
    pub fn new<I, S>(argv: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Self { argv: argv.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Sets one environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn cwd(mut self, path: impl Into<String>) -> Self {
        self.cwd = Some(path.into());
        self
    }

    /// Sets the user, by name or number.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Sets the time limit, in whole milliseconds.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout_ms = Some(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Sets the time between TERM and KILL, in whole milliseconds.
    #[must_use]
    pub fn kill_grace(mut self, grace: Duration) -> Self {
        self.kill_grace_ms = Some(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Asks for a stdin pipe.
    #[must_use]
    pub fn with_stdin(mut self) -> Self {
        self.stdin = true;
        self
    }
}

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
}

impl ExitStatus {
    /// Whether it returned 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// The code a shell would show: the code, 128 plus the signal, or 124 for a time limit.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128_i32.saturating_add(signal),
            Self::Timeout => 124,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Timeout => f.write_str("time limit"),
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

/// A process the agent started that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Its id in the guest; also its group's and its session's.
    pub pid: u32,
    /// What runs.
    pub argv: Vec<String>,
    /// The working directory asked for.
    pub cwd: Option<String>,
    /// The user asked for.
    pub user: Option<String>,
    /// The caller's name for it.
    pub tag: Option<String>,
    /// The guest's uptime in milliseconds when it started.
    pub started_uptime_ms: u64,
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
    /// Anything else, as the detail says.
    Other,
}

impl SpawnErrorKind {
    const ALL: [Self; 8] = [
        Self::InvalidRequest,
        Self::NotFound,
        Self::PermissionDenied,
        Self::BadCwd,
        Self::UnknownUser,
        Self::ResourceLimit,
        Self::TooLong,
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
