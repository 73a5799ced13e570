//! A directory as a tar stream.
//!
//! Files, directories, symbolic and hard links go in, with modes, owners and times. Sockets, pipes
//! and devices do not: they mean nothing elsewhere. A file that shrinks meanwhile is filled up with
//! zeros to the length that was announced, one that grows is cut there.

use std::collections::HashMap;
use std::fs::{Metadata, ReadDir};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aetherium_agent_proto::rpc::MAX_CHUNK_BYTES;
use aetherium_agent_proto::{Refusal, RefusalKind};
use bytes::Bytes;
use tar::{Builder, EntryType, Header};

use crate::actor::Parts;
use crate::refuse::OrRefuse as _;

/// The most files with several names that are remembered; further ones are packed once per name.
const MAX_HARD_LINKS: usize = 65_536;
/// The deepest tree; each level holds a descriptor.
const MAX_DEPTH: usize = 128;

/// Packs what lies below a directory.
pub(super) fn pack(dir: &Path, parts: &Parts<Bytes>) -> Result<(), Refusal> {
    let entries = std::fs::read_dir(dir).cannot("be packed", dir)?;
    let metadata = std::fs::metadata(dir).cannot("be packed", dir)?;
    let mut packer = Packer {
        builder: Builder::new(Chunks { parts, chunk: Vec::new() }),
        top: dir,
        names: HashMap::new(),
    };
    packer.add_plain(Path::new("."), &metadata, EntryType::Directory).cannot(PACK, dir)?;
    packer.walk(entries)?;
    let mut chunks = packer.builder.into_inner().cannot(PACK, dir)?;
    chunks.flush().cannot(PACK, dir)
}

const PACK: &str = "be packed";

struct Packer<'a> {
    builder: Builder<Chunks<'a>>,
    top: &'a Path,
    /// The first name in the archive of a file with several, by device and number.
    names: HashMap<(u64, u64), PathBuf>,
}

impl Packer<'_> {
    fn walk(&mut self, top: ReadDir) -> Result<(), Refusal> {
        let mut open = vec![top];
        while let Some(dir) = open.last_mut() {
            let Some(entry) = dir.next() else {
                open.pop();
                continue;
            };
            let path = entry.cannot(PACK, self.top)?.path();
            // What is gone since its name was read is not packed.
            let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
            self.add(&path, &metadata)?;
            if metadata.is_dir() {
                if open.len() == MAX_DEPTH {
                    let detail =
                        format!("`{}` lies deeper than {MAX_DEPTH} levels", path.display());
                    return Err(Refusal::new(RefusalKind::TooLarge, detail));
                }
                open.push(std::fs::read_dir(&path).cannot(PACK, &path)?);
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, metadata: &Metadata) -> Result<(), Refusal> {
        let name = path.strip_prefix(self.top).unwrap_or(path).to_owned();
        let kind = metadata.file_type();
        let added = if kind.is_dir() {
            self.add_plain(&name, metadata, EntryType::Directory)
        } else if kind.is_symlink() {
            let target = std::fs::read_link(path).cannot(PACK, path)?;
            self.add_link(&name, metadata, EntryType::Symlink, &target)
        } else if kind.is_file() {
            match self.first_name(&name, metadata) {
                Some(first) => self.add_link(&name, metadata, EntryType::Link, &first),
                None => self.add_file(path, &name, metadata),
            }
        } else {
            Ok(())
        };
        added.cannot(PACK, path)
    }

    /// The name under which a file with several names is in the archive already.
    fn first_name(&mut self, name: &Path, metadata: &Metadata) -> Option<PathBuf> {
        if metadata.nlink() < 2 {
            return None;
        }
        let key = (metadata.dev(), metadata.ino());
        if let Some(first) = self.names.get(&key) {
            return Some(first.clone());
        }
        if self.names.len() < MAX_HARD_LINKS {
            self.names.insert(key, name.to_owned());
        }
        None
    }

    fn add_plain(&mut self, name: &Path, found: &Metadata, kind: EntryType) -> io::Result<()> {
        self.builder.append_data(&mut header(found, kind, 0), name, io::empty())
    }

    fn add_link(
        &mut self,
        name: &Path,
        found: &Metadata,
        kind: EntryType,
        target: &Path,
    ) -> io::Result<()> {
        self.builder.append_link(&mut header(found, kind, 0), name, target)
    }

    fn add_file(&mut self, path: &Path, name: &Path, found: &Metadata) -> io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        // The name may mean something else by now; a link is not followed, a pipe not waited for.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = options.read(true).custom_flags(flags).open(path)?;
        let size = found.size();
        let content = file.take(size).chain(io::repeat(0)).take(size);
        self.builder.append_data(&mut header(found, EntryType::Regular, size), name, content)
    }
}

fn header(found: &Metadata, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(found.mode() & 0o7777);
    header.set_uid(found.uid().into());
    header.set_gid(found.gid().into());
    // The format knows no time before its epoch.
    header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
    header
}

/// Cuts what is written into chunks for the caller.
struct Chunks<'a> {
    parts: &'a Parts<Bytes>,
    chunk: Vec<u8>,
}

impl Write for Chunks<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.chunk.capacity() == 0 {
            self.chunk.reserve_exact(MAX_CHUNK_BYTES);
        }
        let taken = data.len().min(MAX_CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&data[..taken]);
        if self.chunk.len() == MAX_CHUNK_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        self.parts.give(std::mem::take(&mut self.chunk).into()).map_err(io::Error::other)
    }
}
