//! One run of a command in a VM: what to run, how it ended, and the states in between.
//! Prompts and executions share these, since a prompt is a command chosen by its assistant.

use crate::{
    ExecutionId, Fault, Timestamp, VmId,
    secret::{MAX_USES, SecretUses},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What to run in a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Program and arguments; the program is looked up in the guest's PATH.
    #[schema(min_items = 1, max_items = 1024, example = json!(["echo", "hello"]))]
    pub argv: Vec<String>,
    /// Environment variables on top of the guest's defaults.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Secrets that it gets, which go before `env`.
    #[serde(default, skip_serializing_if = "SecretUses::is_empty")]
    pub secrets: SecretUses,
    /// Working directory in the guest; where absent, that of the template's image, else the user's
    /// home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User name or numeric id in the guest; where absent, that of the template's image, else root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Time the command may take, in milliseconds, enforced in the guest. One hour where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86_400_000)]
    pub timeout_ms: Option<u64>,
}

/// A value of a [`Command`] that is not allowed: which field, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidCommand {
    /// The field's name.
    pub field: &'static str,
    /// What is wrong with it, with the value.
    pub problem: String,
}

impl Command {
    /// A command with nothing but its arguments.
    pub fn new(argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            secrets: SecretUses::default(),
            cwd: None,
            user: None,
            timeout_ms: None,
        }
    }

    /// Checks every bound of [`crate::limits`] and what no system call would accept.
    ///
    /// # Errors
    /// The first field that is not allowed.
    pub fn validate(&self) -> Result<(), InvalidCommand> {
        use crate::limits::{MAX_ARGS, MAX_COMMAND_BYTES, MAX_ENV, MAX_TIMEOUT};
        let fail = |field, problem: String| Err(InvalidCommand { field, problem });
        if self.argv.first().is_none_or(String::is_empty) {
            return fail("argv", "must name a program: its first entry is missing or empty".into());
        }
        if self.argv.len() > MAX_ARGS {
            return fail("argv", format!("has {} entries; at most {MAX_ARGS}", self.argv.len()));
        }
        if self.env.len() > MAX_ENV {
            return fail("env", format!("has {} variables; at most {MAX_ENV}", self.env.len()));
        }
        if let Some(name) =
            self.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0']))
        {
            return fail("env", format!("{name:?} cannot be a variable's name"));
        }
        if self.secrets.len() > MAX_USES {
            return fail("secrets", format!("asks for {}; at most {MAX_USES}", self.secrets.len()));
        }
        let strings = || self.argv.iter().chain(self.env.keys()).chain(self.env.values());
        if strings().chain(&self.cwd).any(|text| text.contains('\0')) {
            return fail("argv, env or cwd", "contains a NUL byte".into());
        }
        let bytes: usize = strings().map(|text| text.len() + 1).sum();
        if bytes > MAX_COMMAND_BYTES {
            return fail(
                "argv and env",
                format!("take {bytes} bytes; at most {MAX_COMMAND_BYTES}"),
            );
        }
        if self.cwd.as_deref().is_some_and(|cwd| !cwd.starts_with('/')) {
            return fail(
                "cwd",
                format!("{:?} is not an absolute path", self.cwd.as_deref().unwrap_or("")),
            );
        }
        if self.user.as_deref().is_some_and(|user| user.is_empty() || user.len() > 64) {
            return fail("user", "must have 1 to 64 characters".into());
        }
        let most = u64::try_from(MAX_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        match self.timeout_ms {
            Some(ms) if ms == 0 || ms > most => {
                fail("timeout_ms", format!("{ms} is not allowed: give 1 to {most}"))
            }
            _ => Ok(()),
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Exit {
    /// It exited with this code.
    Exited {
        /// 0 to 255.
        code: i32,
    },
    /// This signal ended it.
    Signaled {
        /// The signal's number.
        signal: i32,
    },
    /// It was ended because its time was up.
    TimedOut,
}

impl Exit {
    /// The code a shell would show: the code itself, 128 + signal, or 124 for a timeout.
    pub const fn shell_code(self) -> i32 {
        match self {
            Self::Exited { code } => code,
            Self::Signaled { signal } => 128 + signal,
            Self::TimedOut => 124,
        }
    }
}

/// How a process ended, and what it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExitReport {
    /// How it ended.
    pub exit: Exit,
    /// The same as a shell would show it: code, 128 + signal, or 124 for a timeout.
    pub exit_code: i32,
    /// From start to end, in milliseconds.
    pub wall_ms: u64,
    /// Processor time in user mode, in milliseconds.
    pub user_ms: u64,
    /// Processor time in the kernel, in milliseconds.
    pub system_ms: u64,
    /// Most memory resident at once, in KiB.
    pub max_rss_kib: u64,
}

/// Where a prompt or an execution stands.
///
/// ```text
/// queued ─► running ─► completed(exit)
///    │         ├─────► failed(fault)       it could not be run
///    │         ├─────► interrupted(fault)  it may have run; it is not run again
///    └─────────┴─────► cancelled
/// ```
/// A non-zero exit is a result, hence `completed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RunState {
    /// It waits for its turn.
    Queued,
    /// It has been handed to the guest, or is about to be.
    Running,
    /// The command ended by itself or by its timeout.
    Completed {
        /// How.
        #[serde(rename = "result")]
        exit: ExitReport,
    },
    /// It could not be run.
    Failed {
        /// Why.
        fault: Fault,
    },
    /// It may have started, its outcome is lost, and it is not run again.
    Interrupted {
        /// Why.
        fault: Fault,
    },
    /// Somebody cancelled it.
    Cancelled,
}

impl RunState {
    /// Whether nothing will change any more.
    pub const fn is_terminal(&self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    /// The state's name, as in JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed { .. } => "completed",
            Self::Failed { .. } => "failed",
            Self::Interrupted { .. } => "interrupted",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether this state may follow `self`.
    pub const fn may_become(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::Queued, Self::Queued) => false,
            (Self::Queued, Self::Completed { .. }) => false,
            (Self::Queued, _) => true,
            (Self::Running, Self::Queued | Self::Running) => false,
            (Self::Running, _) => true,
            _ => false,
        }
    }
}

/// One command in a VM, from request to result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Execution {
    /// Its id.
    pub id: ExecutionId,
    /// The VM it runs in.
    pub vm_id: VmId,
    /// What runs.
    pub command: Command,
    /// Where it stands.
    #[serde(flatten)]
    pub state: RunState,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it was handed to the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_no_guest_could_run_is_refused_naming_the_field() {
        let command = |argv: &[&str]| Command::new(argv.iter().copied());
        assert_eq!(command(&["true"]).validate(), Ok(()));
        assert_eq!(command(&[]).validate().unwrap_err().field, "argv");
        assert_eq!(command(&[""]).validate().unwrap_err().field, "argv");
        let big = "x".repeat(200_000);
        assert_eq!(command(&["a", &big]).validate().unwrap_err().field, "argv and env");
        let relative = Command { cwd: Some("tmp".into()), ..command(&["true"]) };
        assert_eq!(relative.validate().unwrap_err().field, "cwd");
        let endless = Command { timeout_ms: Some(0), ..command(&["true"]) };
        assert_eq!(endless.validate().unwrap_err().field, "timeout_ms");
        let odd = Command { env: [("A=B".into(), String::new())].into(), ..command(&["true"]) };
        assert_eq!(odd.validate().unwrap_err().field, "env");
    }

    #[test]
    fn nothing_follows_a_terminal_state() {
        let fault = Fault::new(crate::Code::Interrupted, "x");
        for terminal in [RunState::Cancelled, RunState::Failed { fault: fault.clone() }] {
            assert!(terminal.is_terminal());
            assert!(!terminal.may_become(&RunState::Running));
            assert!(!terminal.may_become(&RunState::Interrupted { fault: fault.clone() }));
        }
    }
}
