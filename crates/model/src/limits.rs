//! Bounds on what one request may ask for. Each is checked where the request is parsed.

use std::time::Duration;

/// The longest prompt, in bytes.
pub const MAX_PROMPT_BYTES: usize = 256 * 1024;
/// The most arguments of one command.
pub const MAX_ARGS: usize = 1024;
/// The most environment variables of one command.
pub const MAX_ENV: usize = 256;
/// The bytes of a command's arguments and environment together (Linux allows 128 KiB for one string).
pub const MAX_COMMAND_BYTES: usize = 128 * 1024;
/// The longest time a command may be given.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// The time a command gets whose caller does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3600);
/// The output kept of one prompt or execution, in bytes; what exceeds it is dropped and counted.
pub const MAX_OUTPUT_BYTES: u64 = 16 * 1024 * 1024;
/// The largest request body, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Tasks that may wait at once; beyond it, creates answer `busy`.
pub const MAX_QUEUED_TASKS: i64 = 100_000;
