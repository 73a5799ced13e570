//! The one-line JSON protocol, for a person with `nc`.
//!
//! One request a line, one answer a line, any number on a connection:
//!
//! ```text
//! {"cmd":"echo","args":["hi"]}
//! {"exit_code":0,"stdout":"hi\n","stderr":""}
//! ```
//!
//! A request longer than [`MAX_REQUEST_BYTES`] and output past [`MAX_OUTPUT_BYTES`] per stream are
//! refused and cut respectively; nothing here grows with the peer's appetite.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ExecSpec, ExitReport, ExitStatus, Token};

/// The first byte that selects this protocol on a new connection.
pub const FIRST_BYTE: u8 = b'{';
/// The longest request line, in bytes, its newline included.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// The most of each output stream that an answer carries, in bytes.
pub const MAX_OUTPUT_BYTES: usize = 1024 * 1024;
/// The time limit of a request that names none, in milliseconds.
pub const DEFAULT_TIMEOUT_MS: u64 = 60_000;

/// A request line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineRequest {
    /// The program.
    pub cmd: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment variables on top of the defaults.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The user, by name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The time limit in milliseconds; [`DEFAULT_TIMEOUT_MS`] if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The VM's token; required over TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
}

impl LineRequest {
    /// The command to run.
    #[must_use]
    pub fn into_spec(self) -> ExecSpec {
        let argv = std::iter::once(self.cmd).chain(self.args);
        ExecSpec {
            env: self.env,
            cwd: self.cwd,
            user: self.user,
            timeout_ms: Some(self.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS)),
            ..ExecSpec::new(argv)
        }
    }
}

/// An answer line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LineResponse {
    /// The command ran.
    Done(LineResult),
    /// It did not.
    Failed {
        /// Why.
        error: LineError,
    },
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineResult {
    /// The exit code as a shell shows it: 128 plus the signal, 124 for the time limit.
    pub exit_code: i32,
    /// Its stdout; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Its stderr, likewise.
    pub stderr: String,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether its time limit ended it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
    /// Whether the kernel killed it for want of memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub out_of_memory: bool,
    /// Whether output was cut at [`MAX_OUTPUT_BYTES`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl LineResult {
    /// An answer from what was captured.
    #[must_use]
    pub fn new(exit: &ExitReport, stdout: &[u8], stderr: &[u8], truncated: bool) -> Self {
        let signal = match exit.status {
            ExitStatus::Signal(signal) => Some(signal),
            ExitStatus::Oom => Some(9),
            ExitStatus::Code(_) | ExitStatus::Timeout => None,
        };
        Self {
            exit_code: exit.status.shell_code(),
            stdout: String::from_utf8_lossy(stdout).into_owned(),
            stderr: String::from_utf8_lossy(stderr).into_owned(),
            signal,
            timed_out: exit.status == ExitStatus::Timeout,
            out_of_memory: exit.status == ExitStatus::Oom,
            truncated,
        }
    }
}

/// Why a line was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineError {
    /// A stable code: `bad_request`, `too_long`, `unauthenticated`, or a spawn error's.
    pub code: String,
    /// What happened, with values.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_request_reads_and_the_plain_answer_has_three_fields() {
        let request: LineRequest = serde_json::from_str(r#"{"cmd":"echo","args":["hi"]}"#).unwrap();
        assert_eq!(request.into_spec().program, ExecSpec::new(["echo", "hi"]).program);
        let exit = ExitReport {
            status: ExitStatus::Code(0),
            wall_ms: 1,
            user_ms: 0,
            sys_ms: 0,
            max_rss_kib: 900,
        };
        let answer = LineResponse::Done(LineResult::new(&exit, b"hi\n", b"", false));
        assert_eq!(
            serde_json::to_string(&answer).unwrap(),
            r#"{"exit_code":0,"stdout":"hi\n","stderr":""}"#
        );
    }

    #[test]
    fn an_error_is_one_object() {
        let error = LineError { code: "not_found".into(), detail: "no program `x`".into() };
        assert_eq!(
            serde_json::to_string(&LineResponse::Failed { error }).unwrap(),
            r#"{"error":{"code":"not_found","detail":"no program `x`"}}"#
        );
    }
}
