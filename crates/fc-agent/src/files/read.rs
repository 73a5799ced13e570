//! Reading a file, chunk by chunk.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use aetherium_agent_proto::files::{ByteRange, FileInfo};
use aetherium_agent_proto::rpc::MAX_CHUNK_BYTES;
use aetherium_agent_proto::{Refusal, RefusalKind};
use bytes::Bytes;

use super::info::Names;
use crate::actor::Parts;
use crate::refuse::OrRefuse as _;

/// A part of a file's content.
pub(super) enum ReadPart {
    /// What the file is. The first one.
    Info(FileInfo),
    Data(Bytes),
}

/// Reads a range of a regular file. Links are followed.
pub(super) fn read(path: &Path, range: ByteRange, parts: &Parts<ReadPart>) -> Result<(), Refusal> {
    let mut file = open(path)?;
    let metadata = file.metadata().cannot("be looked at", path)?;
    parts.give(ReadPart::Info(Names::read().describe(path.to_owned(), &metadata)))?;
    if range.offset > 0 {
        file.seek(SeekFrom::Start(range.offset)).cannot("be read from there", path)?;
    }
    let mut left = range.length.unwrap_or(u64::MAX);
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(MAX_CHUNK_BYTES);
        let mut chunk = Vec::with_capacity(room);
        let read = rustix::io::read(&file, rustix::buffer::spare_capacity(&mut chunk));
        match read {
            Ok(0) => break,
            Ok(count) => {
                chunk.truncate(room);
                left -= count.min(room) as u64;
                parts.give(ReadPart::Data(chunk.into()))?;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).cannot("be read", path),
        }
    }
    Ok(())
}

/// Opens a regular file. A pipe or a device could make the reader wait for ever.
fn open(path: &Path) -> Result<File, Refusal> {
    let mut options = std::fs::OpenOptions::new();
    // Opening a pipe waits for its writer, but for this flag.
    let file = options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file = file.cannot("be opened", path)?;
    expect_file(&file, path)?;
    Ok(file)
}

/// Refuses what is no regular file.
pub(super) fn expect_file(file: &File, path: &Path) -> Result<(), Refusal> {
    let kind = file.metadata().cannot("be looked at", path)?.file_type();
    let (refused, what) = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        (RefusalKind::IsADirectory, "a directory; list it, or take it as an archive")
    } else {
        (RefusalKind::NotAFile, "no regular file; use a command for pipes and devices")
    };
    Err(Refusal::new(refused, format!("`{}` is {what}", path.display())))
}
