//! What the agent is measured against: the same work over the same kind of socket by a few lines
//! without any protocol. Owns the bare far ends; must never go through the agent's own protocol.
//!
//! ```text
//! echo:    here ──64 B──► socket ──► far end ──► socket ──► here
//! output:  command ──pipe──► far end ──► socket ──► here
//! input:   here ──► socket ──► far end ──pipe──► command
//! file:    here ──► socket ──► far end ──► file, synced, renamed
//! ```
//!
//! The far end is where the agent is: a thread on this host, or a small program in the guest.

mod guest;
mod host;

use crate::error::{CliError, local};
use aetherium_agent_client::AgentClient;
use aetherium_model::Fault;
use guest::Guest;
pub(super) use host::spawn;
use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// What a bare copy reads and writes at once, in bytes: as much as a pipe holds (pipe(7)).
const CHUNK: usize = 64 * 1024;
/// A message of the raw echo, in bytes: about what a small call is on the wire.
const ECHO: usize = 64;
/// No copy of a benchmark takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A far end without a protocol.
pub(super) enum Floor {
    /// On this host, as the agent itself.
    Host,
    /// In the agent's guest.
    Guest(Guest),
}

impl Floor {
    /// The floor in the agent's guest; none where nothing but the agent can be reached.
    pub(super) async fn in_guest(agent: &AgentClient) -> Result<Option<Self>, CliError> {
        Ok(Guest::start(agent).await?.map(Self::Guest))
    }

    pub(super) fn echo(&self) -> Result<Echo, CliError> {
        match self {
            Self::Host => host::echo(),
            Self::Guest(guest) => guest.echo(),
        }
    }

    /// So much output of a command.
    pub(super) fn output(&self, size: u64) -> Result<Duration, CliError> {
        match self {
            Self::Host => host::output(&["head", "-c", &size.to_string(), "/dev/zero"], size),
            Self::Guest(guest) => guest.output(size),
        }
    }

    /// So much input of a command.
    pub(super) fn input(&self, size: u64) -> Result<Duration, CliError> {
        match self {
            Self::Host => host::input(&["sh", "-c", "exec cat > /dev/null"], size),
            Self::Guest(guest) => guest.input(size),
        }
    }

    /// A file of this size.
    pub(super) fn file(&self, path: &Path, size: u64) -> Result<Duration, CliError> {
        match self {
            Self::Host => host::file(path, size),
            Self::Guest(guest) => guest.file(path, size),
        }
    }
}

/// A far end that sends back what it gets.
pub(super) struct Echo {
    near: UnixStream,
    /// The far end, if it is here.
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// One message there and back.
    pub(super) fn ping(&mut self) -> Result<Duration, CliError> {
        let mut message = [7; ECHO];
        let began = Instant::now();
        let echoed =
            self.near.write_all(&message).and_then(|()| self.near.read_exact(&mut message));
        echoed.map_err(|error| local("the raw echo", error))?;
        Ok(began.elapsed())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Both ends close, so the far one ends.
        let _ = self.near.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Copies with one buffer until the source ends; dropping the sink is what ends its reader.
fn pour(mut from: impl Read, mut to: impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut copied = 0;
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(copied),
            read => {
                to.write_all(&buffer[..read])?;
                copied += read as u64;
            }
        }
    }
}

/// Sends so many bytes.
fn feed(to: impl Write, size: u64) -> io::Result<()> {
    pour(io::repeat(0).take(size), to).map(drop)
}

fn whole(copied: u64, size: u64) -> Result<(), CliError> {
    if copied == size {
        return Ok(());
    }
    Err(Fault::internal(format!("{copied} of {size} bytes came through the bare copy")).into())
}
