//! The frames of an interactive execution over a WebSocket, the same from a client to the gateway
//! and from the gateway to the worker.
//!
//! ```text
//! client                                   server
//!   text   Open{command, stdin}      ──►
//!                                    ◄──   text   Started{execution_id, pid}
//!   binary 0x00 + stdin bytes        ──►
//!                                    ◄──   binary 0x01 + stdout bytes, 0x02 + stderr bytes
//!   text   CloseStdin | Signal       ──►
//!                                    ◄──   text   Exit{result} | Fault{…}, then close
//! ```
//! A client that goes away ends the command.

use crate::{
    ExecutionId, Fault,
    run::{Command, ExitReport},
};
use serde::{Deserialize, Serialize};

/// First byte of a binary frame that carries standard input.
pub const CHANNEL_STDIN: u8 = 0;
/// First byte of a binary frame that carries standard output.
pub const CHANNEL_STDOUT: u8 = 1;
/// First byte of a binary frame that carries standard error.
pub const CHANNEL_STDERR: u8 = 2;
/// The largest frame either side accepts, in bytes.
pub const MAX_FRAME_BYTES: usize = 256 * 1024;

/// The first frame of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// What to run.
    pub command: Command,
    /// Whether standard input follows; without it the command reads end-of-file.
    #[serde(default)]
    pub stdin: bool,
}

/// Later text frames of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ClientFrame {
    /// No more standard input.
    CloseStdin,
    /// Send a signal to the command's process group.
    Signal {
        /// Its number.
        signal: i32,
    },
}

/// Text frames of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame {
    /// The command runs.
    Started {
        /// Under which its record is kept.
        execution_id: ExecutionId,
        /// Its process id in the guest.
        pid: u32,
    },
    /// The command has ended; the last frame.
    Exit {
        /// How.
        result: ExitReport,
    },
    /// It could not be run or followed to its end; the last frame.
    Fault {
        /// Why.
        fault: Fault,
    },
}

/// Captured output of a command that was run in one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Captured {
    /// Under which its record is kept.
    pub execution_id: ExecutionId,
    /// How it ended.
    pub result: ExitReport,
    /// Standard output; bytes that are not UTF-8 are replaced by U+FFFD.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
    /// Whether either was longer than what is kept.
    pub truncated: bool,
}
