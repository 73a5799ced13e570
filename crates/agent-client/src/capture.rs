//! Capturing a whole command: bounded output and how it ended.

use aetherium_agent_proto::ExitReport;
use bytes::{Bytes, BytesMut};

use crate::{AgentError, Process, ProcessEvent};

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The beginning of its stdout.
    pub stdout: Bytes,
    /// The beginning of its stderr.
    pub stderr: Bytes,
    /// Whether stdout was longer than the limit.
    pub stdout_truncated: bool,
    /// Whether stderr was longer than the limit.
    pub stderr_truncated: bool,
    /// How it ended.
    pub exit: ExitReport,
}

/// A command whose end was not seen. What it had written until then is kept.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct CollectError {
    /// Why.
    #[source]
    pub error: AgentError,
    /// Its stdout so far, up to the limit.
    pub stdout: Bytes,
    /// Its stderr so far, up to the limit.
    pub stderr: Bytes,
}

/// Follows a process to its end and keeps at most `limit` bytes of each stream; what is longer is
/// read and dropped, so that the process never waits for a reader.
///
/// # Errors
/// [`CollectError`] when the connection or the VM ended first.
pub async fn collect(mut process: Process, limit: usize) -> Result<Output, CollectError> {
    let (mut stdout, mut stderr) = (Kept::new(limit), Kept::new(limit));
    loop {
        let error = match process.next().await {
            Ok(Some(ProcessEvent::Stdout(data))) => {
                stdout.take(&data);
                continue;
            }
            Ok(Some(ProcessEvent::Stderr(data))) => {
                stderr.take(&data);
                continue;
            }
            Ok(Some(ProcessEvent::Exited(exit))) => {
                return Ok(Output {
                    stdout_truncated: stdout.truncated,
                    stderr_truncated: stderr.truncated,
                    stdout: stdout.bytes.freeze(),
                    stderr: stderr.bytes.freeze(),
                    exit,
                });
            }
            // Only a viewer misses anything, and it knows that what it has is a part.
            Ok(Some(ProcessEvent::Skipped(bytes))) => {
                stdout.truncated |= bytes.stdout > 0;
                stderr.truncated |= bytes.stderr > 0;
                continue;
            }
            Ok(None) => AgentError::Agent {
                call: "start",
                code: "already_ended".to_owned(),
                detail: "the process had been followed to its end before".to_owned(),
            },
            Err(error) => error,
        };
        let (stdout, stderr) = (stdout.bytes.freeze(), stderr.bytes.freeze());
        return Err(CollectError { error, stdout, stderr });
    }
}

struct Kept {
    bytes: BytesMut,
    limit: usize,
    truncated: bool,
}

impl Kept {
    fn new(limit: usize) -> Self {
        Self { bytes: BytesMut::new(), limit, truncated: false }
    }

    fn take(&mut self, data: &[u8]) {
        let room = self.limit - self.bytes.len();
        self.truncated |= data.len() > room;
        self.bytes.extend_from_slice(&data[..data.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_at_the_limit_is_whole_and_one_byte_more_is_not() {
        let mut kept = Kept::new(4);
        kept.take(b"ab");
        kept.take(b"cd");
        assert!(!kept.truncated);
        kept.take(b"e");
        assert!(kept.truncated);
        assert_eq!(&kept.bytes[..], b"abcd");
    }
}
