//! The floor on this host: the far ends are threads, reached by pairs of sockets.

use super::{Echo, PATIENCE, feed, pour, whole};
use crate::error::{CliError, local};
use aetherium_model::Fault;
use std::{
    fs::File,
    io,
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Starts a thread that sends back what it gets.
pub(super) fn echo() -> Result<Echo, CliError> {
    let (near, far) = pair()?;
    // The near end's closing ends it, and that is all it has to say.
    let thread = thread::spawn(move || drop(pour(&far, &far)));
    Ok(Echo { near, thread: Some(thread) })
}

/// A plain spawn and wait.
pub(in super::super) fn spawn(argv: &[&str]) -> Result<Duration, CliError> {
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
    feed(&near, size).map_err(|error| local("the bare copy", error))?;
    drop(near);
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
    feed(&near, size).map_err(|error| local("the bare copy", error))?;
    drop(near);
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

fn join(pump: JoinHandle<io::Result<u64>>) -> Result<u64, CliError> {
    let ended = pump.join().map_err(|_| Fault::internal("the bare copy panicked"))?;
    ended.map_err(|error| local("the bare copy", error).into())
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
        echo().unwrap().ping().unwrap();
        spawn(&["true"]).unwrap();
        assert!(spawn(&["false"]).is_err());
    }
}
