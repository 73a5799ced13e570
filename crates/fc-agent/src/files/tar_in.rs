//! Unpacking a tar stream into a directory.
//!
//! Each entry is reached from the directory's own descriptor and through no link, so that neither
//! the archive nor a process of the guest that moves things about can lead it elsewhere. What was
//! unpacked before a refusal stays. Files belong to who unpacks; modes, times and links are kept.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aetherium_agent_proto::files::{DEFAULT_DIR_MODE, LinkPolicy, Unpacked};
use aetherium_agent_proto::rpc::MAX_CHUNK_BYTES;
use aetherium_agent_proto::{Refusal, RefusalKind};
use bytes::{Buf as _, Bytes};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use tar::{Archive, Entry, EntryType};
use tokio::sync::mpsc;

use super::write::{Piece, incomplete};
use super::{change, tar_path};
use crate::refuse::OrRefuse as _;

/// The most directories, whose modes and times are kept until their content is there.
const MAX_DIRS: usize = 262_144;

/// Unpacks the pieces of an upload below `path`, which is made if need be.
pub(super) fn unpack(
    path: &Path,
    links: LinkPolicy,
    pieces: mpsc::Receiver<Piece>,
) -> Result<Unpacked, Refusal> {
    change::make_dir(path, DEFAULT_DIR_MODE)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(path, flags, Mode::empty()).cannot("be unpacked into", path)?;
    let mut unpacker =
        Unpacker { top, path, links, dirs: Vec::new(), unpacked: Unpacked::default() };
    let mut archive = Archive::new(Upload { pieces, piece: Bytes::new(), complete: false, path });
    for entry in archive.entries().map_err(|error| unreadable(&error))? {
        unpacker.take(entry.map_err(|error| unreadable(&error))?)?;
    }
    // What pads the archive, up to the commit.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(|error| unreadable(&error))?;
    unpacker.finish()
}

/// A failed read of the archive: the upload's own refusal, or a fault of the format.
fn unreadable(error: &io::Error) -> Refusal {
    match error.get_ref().and_then(|it| it.downcast_ref::<Refusal>()) {
        Some(refusal) => refusal.clone(),
        None => Refusal::new(RefusalKind::BadArchive, format!("this is no tar archive: {error}")),
    }
}

struct Unpacker<'a> {
    top: OwnedFd,
    path: &'a Path,
    links: LinkPolicy,
    /// Directories with their mode and time, in the order they came.
    dirs: Vec<(PathBuf, Mode, Timestamps)>,
    unpacked: Unpacked,
}

impl Unpacker<'_> {
    fn take<R: Read>(&mut self, mut entry: Entry<'_, R>) -> Result<(), Refusal> {
        let place = tar_path::place(&entry.path_bytes())?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::Directory => self.make_dir(&place, &entry)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.make_file(&place, &mut entry)?;
            }
            EntryType::Symlink | EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.make_link(&place, kind, &target, &entry)?;
            }
            // Facts about the archive as a whole.
            EntryType::XGlobalHeader => return Ok(()),
            other => {
                let place = place.display();
                let detail = format!("entry `{place}` is of type {other:?}, which is not unpacked");
                return Err(Refusal::new(RefusalKind::BadArchive, detail));
            }
        }
        self.unpacked.entries += 1;
        Ok(())
    }

    fn make_dir<R: Read>(&mut self, place: &Path, entry: &Entry<'_, R>) -> Result<(), Refusal> {
        if self.dirs.len() == MAX_DIRS {
            let detail = format!("the archive holds more than {MAX_DIRS} directories");
            return Err(Refusal::new(RefusalKind::TooLarge, detail));
        }
        // The upload's directory itself keeps the mode it has.
        if place.as_os_str().is_empty() {
            return Ok(());
        }
        drop(self.open_dir(place)?);
        self.dirs.push((place.to_owned(), mode(entry)?, times(entry)?));
        Ok(())
    }

    fn make_file<R: Read>(
        &mut self,
        place: &Path,
        entry: &mut Entry<'_, R>,
    ) -> Result<(), Refusal> {
        let (parent, name) = self.parent(place)?;
        self.clear(parent.as_fd(), name, place)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made =
            rustix::fs::openat(&parent, name, flags | OFlags::NOFOLLOW, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(made.cannot("be made", &self.shown(place))?);
        let mut chunk = vec![0; MAX_CHUNK_BYTES];
        loop {
            let read = match entry.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(&error)),
            };
            file.write_all(&chunk[..read]).cannot("be written", &self.shown(place))?;
            self.unpacked.bytes += read as u64;
        }
        rustix::fs::fchmod(&file, mode(entry)?).cannot("be given its mode", &self.shown(place))?;
        rustix::fs::futimens(&file, &times(entry)?).cannot("be given its time", &self.shown(place))
    }

    fn make_link<R: Read>(
        &self,
        place: &Path,
        kind: EntryType,
        target: &[u8],
        entry: &Entry<'_, R>,
    ) -> Result<(), Refusal> {
        let (parent, name) = self.parent(place)?;
        if kind == EntryType::Link {
            let target = tar_path::place(target)?;
            let (from, from_name) = self.parent(&target)?;
            self.clear(parent.as_fd(), name, place)?;
            return rustix::fs::linkat(&from, from_name, &parent, name, AtFlags::empty())
                .cannot("be linked", &self.shown(place));
        }
        if self.links == LinkPolicy::Inside {
            tar_path::check_link(place, target)?;
        }
        self.clear(parent.as_fd(), name, place)?;
        rustix::fs::symlinkat(target, &parent, name).cannot("be made", &self.shown(place))?;
        // A link's time is a nicety some file systems do not have.
        let _ = rustix::fs::utimensat(&parent, name, &times(entry)?, AtFlags::SYMLINK_NOFOLLOW);
        Ok(())
    }

    /// The directory of an entry, made if the archive does not name it, and the entry's own name.
    fn parent<'p>(&self, place: &'p Path) -> Result<(OwnedFd, &'p Path), Refusal> {
        let name = place.file_name().ok_or_else(|| {
            Refusal::new(RefusalKind::BadArchive, "an entry that is no directory has no name")
        })?;
        let parent = place.parent().unwrap_or(Path::new(""));
        Ok((self.open_dir(parent)?, Path::new(name)))
    }

    /// Opens a directory below the top, and makes it and those above it if need be.
    fn open_dir(&self, place: &Path) -> Result<OwnedFd, Refusal> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // The top itself, whose name is empty.
        let name = if place.as_os_str().is_empty() { Path::new(".") } else { place };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(&self.top, name, flags, Mode::empty(), resolve) {
            Err(rustix::io::Errno::NOENT) => {
                let (parent, name) = self.parent(place)?;
                match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(error).cannot("be made", &self.shown(place)),
                }
                rustix::fs::openat(&parent, name, flags | OFlags::NOFOLLOW, Mode::empty())
                    .cannot("be opened", &self.shown(place))
            }
            Err(rustix::io::Errno::LOOP) => {
                let shown = self.shown(place);
                let detail = format!("`{}` passes through a link; remove it", shown.display());
                Err(Refusal::new(RefusalKind::OutsideDirectory, detail))
            }
            opened => opened.cannot("be opened", &self.shown(place)),
        }
    }

    /// Removes what an entry takes the place of; a directory stays and is in the way.
    fn clear(&self, parent: BorrowedFd<'_>, name: &Path, place: &Path) -> Result<(), Refusal> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error).cannot("be replaced", &self.shown(place)),
        }
    }

    /// Gives directories their modes and times, the deepest first: content changes a time, and a
    /// mode may close the way.
    fn finish(mut self) -> Result<Unpacked, Refusal> {
        self.dirs.sort_by_key(|(place, ..)| std::cmp::Reverse(place.components().count()));
        for (place, mode, times) in &self.dirs {
            let (parent, name) = self.parent(place)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let shown = self.shown(place);
            let dir = rustix::fs::openat(&parent, name, flags, Mode::empty());
            let dir = dir.cannot("be opened", &shown)?;
            rustix::fs::futimens(&dir, times).cannot("be given its time", &shown)?;
            rustix::fs::fchmod(&dir, *mode).cannot("be given its mode", &shown)?;
        }
        Ok(self.unpacked)
    }

    fn shown(&self, place: &Path) -> PathBuf {
        self.path.join(place)
    }
}

fn mode<R: Read>(entry: &Entry<'_, R>) -> Result<Mode, Refusal> {
    let mode = entry.header().mode().map_err(|error| unreadable(&error))?;
    Ok(Mode::from_raw_mode(mode & 0o7777))
}

fn times<R: Read>(entry: &Entry<'_, R>) -> Result<Timestamps, Refusal> {
    let seconds = entry.header().mtime().map_err(|error| unreadable(&error))?;
    let at = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(0), tv_nsec: 0 };
    Ok(Timestamps { last_access: at, last_modification: at })
}

/// An upload as a reader.
struct Upload<'a> {
    pieces: mpsc::Receiver<Piece>,
    piece: Bytes,
    complete: bool,
    path: &'a Path,
}

impl Read for Upload<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.complete {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(data)) => self.piece = data,
                Some(Piece::Commit) => self.complete = true,
                None => return Err(io::Error::other(incomplete(self.path))),
            }
        }
        let read = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}
