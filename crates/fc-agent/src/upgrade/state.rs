//! What one program of the agent tells the next.
//!
//! A memory file: a line of JSON, then the bytes of output that are held. [`FORMAT`] is raised with
//! every change; a program is only started if it reads the format that is written.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

use aetherium_agent_proto::Token;
use bytes::{Buf as _, Bytes};
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::exec::SavedProcess;
use crate::init::LastWill;
use crate::serve::{Listen, Role};

/// The format this program writes and reads.
pub(crate) const FORMAT: u32 = 1;

/// Everything but the bytes of output.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Handover {
    pub(crate) format: u32,
    pub(crate) generation: u32,
    pub(crate) token: Option<Token>,
    pub(crate) role: Role,
    pub(crate) estate: Option<Estate>,
    pub(crate) started_uptime_ms: u64,
    /// What the very first program was given, and processes get: soft and hard.
    pub(crate) descriptor_limit: Option<(u64, u64)>,
    pub(crate) listeners: Vec<(Listen, RawFd)>,
    pub(crate) processes: Vec<SavedProcess>,
}

/// What an agent needs to end a machine that is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Estate {
    /// The top directory of the writable disk, if it is the agent's to close; open as long as it lives.
    pub(crate) disk: Option<RawFd>,
    pub(crate) will: LastWill,
}

impl Handover {
    /// Writes it down. The file is closed by an exec unless that is taken back.
    pub(super) fn write(&self, output: &[Bytes]) -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create("fc-agent-handover", MemfdFlags::CLOEXEC)?);
        let mut head = serde_json::to_vec(self)?;
        head.push(b'\n');
        file.write_all(&head)?;
        for piece in output {
            file.write_all(piece)?;
        }
        Ok(file.into())
    }

    /// Reads what the program before has written to `fd`, and the bytes that follow it.
    pub(super) fn read(fd: RawFd) -> io::Result<(Self, Bytes)> {
        // SAFETY: the program before left it open for this one and named it once.
        let mut file = unsafe { File::from_raw_fd(fd) };
        file.rewind()?;
        let mut all = Vec::new();
        file.read_to_end(&mut all)?;
        let mut all = Bytes::from(all);
        let end = all.iter().position(|byte| *byte == b'\n').unwrap_or(all.len());
        let handover = serde_json::from_slice(&all[..end])?;
        all.advance((end + 1).min(all.len()));
        Ok((handover, all))
    }
}
