//! The floor in a guest: the far end is a small program that the agent starts there, reached over a
//! vsock port of its own, which goes the same way as the agent's.

use super::{Echo, PATIENCE, feed, pour, whole};
use crate::error::{CliError, local};
use aetherium_agent_client::{
    AgentClient, AgentError, Endpoint, ExecSpec, Process, ProcessEvent, SpawnErrorKind,
};
use aetherium_model::{Code, Fault};
use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Perl, since Debian's smallest system has it, and it can open any socket.
const PROGRAM: &str = include_str!("guest.pl");
/// Beside the agent's 9999.
const PORT: u32 = 9998;

/// The far end in a guest. Dropping it ends it there.
pub(in super::super) struct Guest {
    uds: PathBuf,
    _program: Process,
}

impl Guest {
    /// Starts the program and waits until it listens; none if the agent is not reached over vsock, or
    /// the guest has no Perl.
    pub(super) async fn start(agent: &AgentClient) -> Result<Option<Self>, CliError> {
        let uds = match agent.endpoint() {
            Some(Endpoint::Vsock { uds, .. }) => uds,
            other => {
                let way = other.map_or_else(|| "no way".to_owned(), |it| it.to_string());
                eprintln!("(no floor in the guest: its agent is reached over {way}, not vsock)");
                return Ok(None);
            }
        };
        let spec = ExecSpec::new(["perl", "-e", PROGRAM, &PORT.to_string()]);
        let mut program = match agent.exec(spec).await {
            Ok(program) => program,
            Err(AgentError::Spawn { kind: SpawnErrorKind::NotFound, .. }) => {
                eprintln!("(no floor in the guest: it has no perl)");
                return Ok(None);
            }
            Err(error) => return Err(super::super::fault(error).into()),
        };
        match program.next().await.map_err(super::super::fault)? {
            Some(ProcessEvent::Stdout(_)) => Ok(Some(Self { uds, _program: program })),
            Some(ProcessEvent::Stderr(text)) => {
                let text = String::from_utf8_lossy(&text);
                let detail = format!("the floor does not start in the guest: {}", text.trim());
                Err(Fault::new(Code::SpawnFailed, detail).into())
            }
            _ => Err(Fault::new(Code::SpawnFailed, "the floor ended in the guest").into()),
        }
    }

    pub(super) fn echo(&self) -> Result<Echo, CliError> {
        let near = self.dial("echo").map_err(|error| local("the raw echo", error))?;
        Ok(Echo { near, thread: None })
    }

    pub(super) fn output(&self, size: u64) -> Result<Duration, CliError> {
        let copy = || {
            let began = Instant::now();
            let near = self.dial(&format!("output {size}"))?;
            let copied = pour(near.take(size), io::sink())?;
            Ok((copied, began.elapsed()))
        };
        let (copied, took) = copy().map_err(|error: io::Error| local("the bare copy", error))?;
        whole(copied, size)?;
        Ok(took)
    }

    pub(super) fn input(&self, size: u64) -> Result<Duration, CliError> {
        self.send(&format!("input {size}"), size)
    }

    pub(super) fn file(&self, path: &Path, size: u64) -> Result<Duration, CliError> {
        self.send(&format!("file {size} {}", path.display()), size)
    }

    /// Sends so much and waits for the byte that says it is done, and for the end.
    fn send(&self, what: &str, size: u64) -> Result<Duration, CliError> {
        let copy = || {
            let began = Instant::now();
            let mut near = self.dial(what)?;
            feed(&near, size)?;
            near.read_exact(&mut [0])?;
            let took = began.elapsed();
            pour(near, io::sink())?;
            Ok(took)
        };
        copy().map_err(|error: io::Error| local("the bare copy", error).into())
    }

    /// Opens the port as any VMM's socket does it, `CONNECT <port>`, and says what is wanted.
    fn dial(&self, what: &str) -> io::Result<UnixStream> {
        let mut socket = UnixStream::connect(&self.uds)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.write_all(format!("CONNECT {PORT}\n").as_bytes())?;
        let mut byte = [0];
        // `OK <n>` and the end of its line.
        while byte != *b"\n" {
            socket.read_exact(&mut byte)?;
        }
        socket.write_all(format!("{what}\n").as_bytes())?;
        Ok(socket)
    }
}
