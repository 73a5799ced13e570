//! A program that wants to be the next agent.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use aetherium_agent_proto::{ExecSpec, ExitStatus};
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};
use sha2::{Digest as _, Sha256};

use super::FORMAT;
use crate::exec::{Children, Event, StreamId};

/// The largest program taken, in bytes: many times what an agent has.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// How long each trial may take.
const TRIAL_TIME: Duration = Duration::from_secs(5);
/// How much of what a trial prints is read.
const MAX_ANSWER: usize = 256;

/// Why a program is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    #[error("a program of {0} bytes is none; send 1 to {MAX_BYTES}")]
    Size(u64),
    #[error("{got} bytes came and {promised} were promised; send it again")]
    Length { promised: u64, got: u64 },
    #[error("the bytes have another sha256 than was promised; send them again")]
    Digest,
    #[error("the program cannot be kept: {0}")]
    Keep(#[source] io::Error),
    #[error("`{option}` of the new program came to {outcome}; send an fc-agent for this machine")]
    Trial { option: &'static str, outcome: String },
    #[error(
        "the new program takes over in another way (format `{theirs}`, this agent's is {FORMAT})"
    )]
    Format { theirs: String },
}

/// A program on its way here.
pub(crate) struct Receiving {
    file: File,
    promised: u64,
    sha256: Vec<u8>,
    got: u64,
    digest: Sha256,
}

/// A program that has arrived whole and has run.
pub(crate) struct Candidate {
    pub(super) program: OwnedFd,
    version: String,
}

impl Receiving {
    /// Prepares for a program of this size and digest.
    pub(crate) fn new(size: u64, sha256: Vec<u8>) -> Result<Self, UpgradeError> {
        if size == 0 || size > MAX_BYTES {
            return Err(UpgradeError::Size(size));
        }
        // A memory file: no path that others could write to, and none to clean up.
        let file = memfd_create("fc-agent", MemfdFlags::CLOEXEC);
        let file = File::from(file.map_err(|error| UpgradeError::Keep(error.into()))?);
        Ok(Self { file, promised: size, sha256, got: 0, digest: Sha256::new() })
    }

    pub(crate) fn take(&mut self, data: &[u8]) -> Result<(), UpgradeError> {
        self.got += data.len() as u64;
        if self.got > self.promised {
            return Err(UpgradeError::Length { promised: self.promised, got: self.got });
        }
        self.digest.update(data);
        self.file.write_all(data).map_err(UpgradeError::Keep)
    }

    /// Checks what has come, and that it runs.
    pub(crate) async fn finish(self, children: &Arc<Children>) -> Result<Candidate, UpgradeError> {
        if self.got != self.promised {
            return Err(UpgradeError::Length { promised: self.promised, got: self.got });
        }
        if self.digest.finalize().as_slice() != self.sha256 {
            return Err(UpgradeError::Digest);
        }
        // What is open for writing cannot be executed.
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let program = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| UpgradeError::Keep(error.into()))?;
        drop(self.file);
        let path = format!("/proc/{}/fd/{}", std::process::id(), program.as_raw_fd());
        let version = ask(children, &path, "--version").await?;
        let version = version.strip_prefix("fc-agent ").ok_or_else(|| UpgradeError::Trial {
            option: "--version",
            outcome: format!("`{version}`"),
        })?;
        let format = ask(children, &path, "--handover-format").await?;
        if format != FORMAT.to_string() {
            return Err(UpgradeError::Format { theirs: format });
        }
        Ok(Candidate { program, version: version.to_owned() })
    }
}

impl Candidate {
    /// The version the program gives itself.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }
}

/// Runs a program with one option and returns the line it prints.
async fn ask(
    children: &Arc<Children>,
    path: &str,
    option: &'static str,
) -> Result<String, UpgradeError> {
    let trial = |outcome: String| UpgradeError::Trial { option, outcome };
    let spec = ExecSpec::new([path, option]).cwd("/").timeout(TRIAL_TIME);
    let started = children.start(spec).map_err(|error| trial(error.to_string()))?;
    let mut reader = started.until_the_end();
    let mut text = Vec::new();
    while let Some(event) = reader.next().await {
        match event {
            Event::Output(StreamId::Stdout, data) => {
                let room = MAX_ANSWER - text.len();
                text.extend_from_slice(&data[..data.len().min(room)]);
            }
            Event::Exited(report) if report.status != ExitStatus::Code(0) => {
                return Err(trial(report.status.to_string()));
            }
            _ => {}
        }
    }
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}
