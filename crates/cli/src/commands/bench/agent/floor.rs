//! What the agent is measured against: the same work over the same kind of socket by a few lines
//! without any protocol.
//!
//! ```text
//! echo:    here ──64 B──► socket ──► thread ──► socket ──► here
//! output:  command ──pipe──► thread ──► socket ──► here
//! input:   here ──► socket ──► thread ──pipe──► command
//! file:    here ──► socket ──► thread ──► file, synced, renamed
//! ```

use crate::error::{CliError, local};
use aetherium_model::Fault;
use std::{
    fs::File,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// What a bare copy reads and writes at once, in bytes: as much as a pipe holds (pipe(7)).
const CHUNK: usize = 64 * 1024;
/// A message of the raw echo, in bytes: about what a small call is on the wire.
const ECHO: usize = 64;
/// No copy of a benchmark takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A thread that sends back what it gets.
pub(super) struct Echo {
    near: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    pub(super) fn start() -> Result<Self, CliError> {
        let (near, mut far) = pair()?;
        let thread = thread::spawn(move || {
            let mut message = [0; ECHO];
            // The near end's closing ends it.
            while far.read_exact(&mut message).and_then(|()| far.write_all(&message)).is_ok() {}
        });
        Ok(Self { near, thread: Some(thread) })
    }

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
        // Both ends close, so the thread ends.
        let _ = self.near.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A plain spawn and wait.
pub(super) fn spawn(argv: &[&str]) -> Result<Duration, CliError> {
    let began = Instant::now();
    let status = command(argv).status().map_err(|error| local(argv[0], error))?;
    let took = began.elapsed();
    if status.success() {
        Ok(took)
    } else {
        Err(Fault::internal("the floor's command failed").into())
    }
}

/// A command's output through a pipe and a socket.
pub(super) fn output(argv: &[&str], size: u64) -> Result<Duration, CliError> {
    let (mut near, far) = pair()?;
    let began = Instant::now();
    let mut child =
        command(argv).stdout(Stdio::piped()).spawn().map_err(|error| local(argv[0], error))?;
    let Some(pipe) = child.stdout.take() else {
        return Err(Fault::internal("the floor's command has no pipe").into());
    };
    let pump = thread::spawn(move || pour(pipe, far));
    let copied = pour(&mut near, io::sink()).map_err(|error| local("the bare copy", error));
    let took = began.elapsed();
    join(pump)?;
    child.wait().map_err(|error| local(argv[0], error))?;
    whole(copied?, size)?;
    Ok(took)
}

/// A command's input through a socket and a pipe.
pub(super) fn input(argv: &[&str], size: u64) -> Result<Duration, CliError> {
    let (near, far) = pair()?;
    let began = Instant::now();
    let mut child =
        command(argv).stdin(Stdio::piped()).spawn().map_err(|error| local(argv[0], error))?;
    let Some(pipe) = child.stdin.take() else {
        return Err(Fault::internal("the floor's command has no pipe").into());
    };
    let pump = thread::spawn(move || pour(far, pipe));
    feed(near, size).map_err(|error| local("the bare copy", error))?;
    whole(join(pump)?, size)?;
    child.wait().map_err(|error| local(argv[0], error))?;
    Ok(began.elapsed())
}

/// A file written through a socket as the agent writes one: aside, synced, renamed.
pub(super) fn file(path: &Path, size: u64) -> Result<Duration, CliError> {
    let (near, far) = pair()?;
    let aside = path.with_extension("aside");
    let began = Instant::now();
    let path = path.to_owned();
    let pump = thread::spawn(move || {
        let mut file = File::create(&aside)?;
        let copied = pour(far, &mut file)?;
        file.sync_all()?;
        std::fs::rename(aside, path)?;
        Ok(copied)
    });
    feed(near, size).map_err(|error| local("the bare copy", error))?;
    whole(join(pump)?, size)?;
    Ok(began.elapsed())
}

fn pair() -> Result<(UnixStream, UnixStream), CliError> {
    let open = || {
        let (near, far) = UnixStream::pair()?;
        for end in [&near, &far] {
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_write_timeout(Some(PATIENCE))?;
        }
        Ok((near, far))
    };
    open().map_err(|error: io::Error| local("a pair of sockets", error).into())
}

fn command(argv: &[&str]) -> Command {
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
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

fn feed(mut to: UnixStream, size: u64) -> io::Result<()> {
    pour(io::repeat(0).take(size), &mut to)?;
    to.shutdown(Shutdown::Write)
}

fn join(pump: JoinHandle<io::Result<u64>>) -> Result<u64, CliError> {
    let ended = pump.join().map_err(|_| Fault::internal("the bare copy panicked"))?;
    ended.map_err(|error| local("the bare copy", error).into())
}

fn whole(copied: u64, size: u64) -> Result<(), CliError> {
    if copied == size {
        return Ok(());
    }
    Err(Fault::internal(format!("{copied} of {size} bytes came through the bare copy")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_copies_are_whole_in_every_direction() {
        const SIZE: u64 = 300_000;
        let dir = tempfile::tempdir().unwrap();
        output(&["head", "-c", "300000", "/dev/zero"], SIZE).unwrap();
        assert!(output(&["head", "-c", "299999", "/dev/zero"], SIZE).is_err());
        input(&["wc", "-c"], SIZE).unwrap();
        file(&dir.path().join("file"), SIZE).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("file")).unwrap().len(), SIZE);
        Echo::start().unwrap().ping().unwrap();
        spawn(&["true"]).unwrap();
        assert!(spawn(&["false"]).is_err());
    }
}
