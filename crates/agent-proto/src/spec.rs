//! A command for a guest: what to run, as whom, within which bounds.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ProtocolVersion;

/// Milliseconds between TERM and KILL where a request does not say.
pub const DEFAULT_KILL_GRACE_MS: u64 = 2_000;

/// A command to run in the guest.
///
/// The environment is what `env` says on top of `HOME`, `USER`, `LOGNAME`, `SHELL` and `PATH` for
/// the user, and `TERM` with a terminal; nothing of the agent's own environment is passed on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// What to run.
    pub program: Program,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// The working directory; the user's home where it exists, else `/`.
    pub cwd: Option<String>,
    /// A user name or numeric id, resolved by the guest's own `/etc/passwd`, with all groups of
    /// `/etc/group`; the agent's user if none.
    pub user: Option<String>,
    /// The mode bits new files are denied; the agent's if absent.
    pub umask: Option<u32>,
    /// The scheduling priority, from -20 (first) to 19 (last).
    pub nice: i32,
    /// What it may use, with all it starts.
    pub limits: ProcessLimits,
    /// The time limit in milliseconds, enforced in the guest; none if absent.
    pub timeout_ms: Option<u64>,
    /// Milliseconds between TERM and KILL; [`DEFAULT_KILL_GRACE_MS`] if absent.
    pub kill_grace_ms: Option<u64>,
    /// What it reads from and writes to.
    pub stdio: Stdio,
    /// Whose going ends it.
    pub life: Life,
    /// A name of the caller's choice, to list and find it by.
    pub tag: Option<String>,
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// The program, searched in `PATH` when it holds no slash, and its arguments. Not empty.
    Argv(Vec<String>),
    /// A line for the user's own shell (`-c`).
    ShellLine(String),
}

impl Default for Program {
    fn default() -> Self {
        Self::Argv(Vec::new())
    }
}

/// What a process reads from and writes to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdio {
    /// Pipes for stdout and stderr; stdin is `/dev/null`.
    #[default]
    Output,
    /// Pipes for all three.
    InputAndOutput,
    /// One terminal for all three. Its output comes as stdout.
    Terminal(Terminal),
}

/// A terminal to make for a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// How large it is at first.
    pub size: TerminalSize,
    /// What `TERM` is set to, as in `xterm-256color`.
    pub kind: String,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Its height.
    pub rows: u16,
    /// Its width.
    pub cols: u16,
}

/// Whose going ends a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// When its starter's stream ends, it is ended: TERM to its group, grace, KILL.
    #[default]
    Attached,
    /// It lives until it ends by itself, by a signal or by its time limit.
    Detached,
}

/// Bounds on a process and all it starts, kept by a cgroup of its own. A guest without cgroup v2
/// refuses a command that asks for any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessLimits {
    /// The most memory in bytes; past it the kernel kills the whole of it.
    pub memory_bytes: Option<u64>,
    /// The most processes and threads at once.
    pub pids: Option<u64>,
    /// The most CPU time in thousandths of one CPU.
    pub cpu_millis: Option<u32>,
}

impl ProcessLimits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl ExecSpec {
    /// A command with everything else at its default.
    pub fn new<I, S>(argv: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        let program = Program::Argv(argv.into_iter().map(Into::into).collect());
        Self { program, ..Self::default() }
    }

    /// A line for the user's shell, with everything else at its default.
    pub fn shell(line: impl Into<String>) -> Self {
        Self { program: Program::ShellLine(line.into()), ..Self::default() }
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
        self.stdio = Stdio::InputAndOutput;
        self
    }

    /// Asks for a terminal.
    #[must_use]
    pub fn on_terminal(mut self, rows: u16, cols: u16, kind: impl Into<String>) -> Self {
        let size = TerminalSize { rows, cols };
        self.stdio = Stdio::Terminal(Terminal { size, kind: kind.into() });
        self
    }

    /// Makes its life its own: the caller's leaving does not end it.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.life = Life::Detached;
        self
    }

    /// Names it.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tag = Some(tag.into());
        self
    }

    /// Bounds what it may use.
    #[must_use]
    pub fn limits(mut self, limits: ProcessLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The oldest protocol whose agents understand all of it.
    #[must_use]
    pub fn needs(&self) -> ProtocolVersion {
        let plain = matches!(self.program, Program::Argv(_))
            && !matches!(self.stdio, Stdio::Terminal(_))
            && (self.umask, self.nice, self.life) == (None, 0, Life::Attached)
            && self.limits.is_none();
        ProtocolVersion { major: 1, minor: u32::from(!plain) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_of_1_0_would_overlook_needs_1_1() {
        let plain = ExecSpec::new(["true"]).with_stdin().user("dev").tag("x").cwd("/");
        assert_eq!(plain.needs().minor, 0);
        let limits = ProcessLimits { pids: Some(1), ..ProcessLimits::default() };
        let newer = [
            ExecSpec::shell("true"),
            ExecSpec::new(["true"]).detached(),
            ExecSpec::new(["true"]).on_terminal(24, 80, "xterm"),
            ExecSpec::new(["true"]).limits(limits),
            ExecSpec { umask: Some(0o22), ..ExecSpec::new(["true"]) },
            ExecSpec { nice: 5, ..ExecSpec::new(["true"]) },
        ];
        assert!(newer.iter().all(|spec| spec.needs().minor == 1));
    }
}
