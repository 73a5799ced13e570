//! Files between the wire and this crate's types.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::wire;
use super::wire::__buffa::oneof::watch_event::Event;
use crate::files::{
    Changed, FileEvent, FileInfo, FileKind, FileMode, InvalidMode, Ownership, Placement, Unpacked,
    WriteOptions,
};

/// A path as the wire carries it.
#[must_use]
pub fn path_to_wire(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// A path as the wire carried it.
#[must_use]
pub fn path_from_wire(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

/// Permission bits as the wire carried them.
///
/// # Errors
/// [`InvalidMode`] when they are more than that.
pub fn mode_from_wire(mode: Option<u32>) -> Result<Option<FileMode>, InvalidMode> {
    mode.map(FileMode::new).transpose()
}

impl From<FileKind> for wire::FileType {
    fn from(kind: FileKind) -> Self {
        match kind {
            FileKind::File => Self::FILE_TYPE_FILE,
            FileKind::Directory => Self::FILE_TYPE_DIRECTORY,
            FileKind::Symlink => Self::FILE_TYPE_SYMLINK,
            FileKind::Fifo => Self::FILE_TYPE_FIFO,
            FileKind::Socket => Self::FILE_TYPE_SOCKET,
            FileKind::BlockDevice => Self::FILE_TYPE_BLOCK_DEVICE,
            FileKind::CharDevice => Self::FILE_TYPE_CHAR_DEVICE,
        }
    }
}

impl From<wire::FileType> for FileKind {
    /// A type that is not told is taken for a file.
    fn from(kind: wire::FileType) -> Self {
        match kind {
            wire::FileType::FILE_TYPE_UNSPECIFIED | wire::FileType::FILE_TYPE_FILE => Self::File,
            wire::FileType::FILE_TYPE_DIRECTORY => Self::Directory,
            wire::FileType::FILE_TYPE_SYMLINK => Self::Symlink,
            wire::FileType::FILE_TYPE_FIFO => Self::Fifo,
            wire::FileType::FILE_TYPE_SOCKET => Self::Socket,
            wire::FileType::FILE_TYPE_BLOCK_DEVICE => Self::BlockDevice,
            wire::FileType::FILE_TYPE_CHAR_DEVICE => Self::CharDevice,
        }
    }
}

impl From<FileInfo> for wire::FileEntry {
    fn from(info: FileInfo) -> Self {
        let (modified_s, modified_ns) = since_epoch(info.modified);
        Self {
            path: path_to_wire(&info.path),
            r#type: wire::FileType::from(info.kind).into(),
            size: info.size,
            mode: info.mode.bits(),
            uid: info.uid,
            gid: info.gid,
            user: info.user,
            group: info.group,
            modified_s,
            modified_ns,
            link_target: info.link_target.as_deref().map(path_to_wire),
            ..Self::default()
        }
    }
}

impl From<wire::FileEntry> for FileInfo {
    fn from(entry: wire::FileEntry) -> Self {
        Self {
            kind: entry.r#type.as_known().unwrap_or_default().into(),
            path: path_from_wire(entry.path),
            size: entry.size,
            mode: FileMode::of_stat(entry.mode),
            uid: entry.uid,
            gid: entry.gid,
            user: entry.user,
            group: entry.group,
            modified: from_epoch(entry.modified_s, entry.modified_ns),
            link_target: entry.link_target.map(path_from_wire),
        }
    }
}

/// Whole seconds, rounded down, and nanoseconds. Times too far away to count become the epoch.
fn since_epoch(time: SystemTime) -> (i64, u32) {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(0), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(0);
            match before.subsec_nanos() {
                0 => (-seconds, 0),
                nanos => (-seconds - 1, 1_000_000_000 - nanos),
            }
        }
    }
}

fn from_epoch(seconds: i64, nanos: u32) -> SystemTime {
    if nanos >= 1_000_000_000 {
        return SystemTime::UNIX_EPOCH;
    }
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let at = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    let at = at.and_then(|at| at.checked_add(Duration::from_nanos(nanos.into())));
    at.unwrap_or(SystemTime::UNIX_EPOCH)
}

impl wire::WriteOpen {
    /// The request to write a file, as this user or as the agent.
    #[must_use]
    pub fn new(path: &Path, options: WriteOptions, user: Option<String>) -> Self {
        Self {
            path: path_to_wire(path),
            offset: match options.placement {
                Placement::Replace => None,
                Placement::At(offset) => Some(offset),
            },
            mode: options.mode.map(FileMode::bits),
            owner: options.ownership.user,
            group: options.ownership.group,
            make_parents: options.make_parents,
            user,
            ..Self::default()
        }
    }

    /// How to write.
    ///
    /// # Errors
    /// [`InvalidMode`] when the mode is none.
    pub fn options(&self) -> Result<WriteOptions, InvalidMode> {
        Ok(WriteOptions {
            placement: self.offset.map_or(Placement::Replace, Placement::At),
            mode: mode_from_wire(self.mode)?,
            ownership: Ownership { user: self.owner.clone(), group: self.group.clone() },
            make_parents: self.make_parents,
        })
    }
}

impl From<Unpacked> for wire::WriteTarResponse {
    fn from(unpacked: Unpacked) -> Self {
        Self { entries: unpacked.entries, bytes: unpacked.bytes, ..Self::default() }
    }
}

impl From<wire::WriteTarResponse> for Unpacked {
    fn from(response: wire::WriteTarResponse) -> Self {
        Self { entries: response.entries, bytes: response.bytes }
    }
}

impl From<Changed> for wire::PathChange {
    fn from(changed: Changed) -> Self {
        Self { path: path_to_wire(&changed.path), directory: changed.is_dir, ..Self::default() }
    }
}

impl From<wire::PathChange> for Changed {
    fn from(change: wire::PathChange) -> Self {
        Self { path: path_from_wire(change.path), is_dir: change.directory }
    }
}

impl From<FileEvent> for wire::WatchEvent {
    fn from(event: FileEvent) -> Self {
        let event = match event {
            FileEvent::Created(it) => Event::Created(Box::new(it.into())),
            FileEvent::Modified(it) => Event::Modified(Box::new(it.into())),
            FileEvent::Attributes(it) => Event::Attributes(Box::new(it.into())),
            FileEvent::Removed(it) => Event::Removed(Box::new(it.into())),
            FileEvent::Renamed { from, to } => Event::Renamed(Box::new(wire::PathMove {
                from: path_to_wire(&from),
                to: path_to_wire(&to.path),
                directory: to.is_dir,
                ..wire::PathMove::default()
            })),
            FileEvent::Lost => Event::Lost(Box::default()),
        };
        Self { event: Some(event), ..Self::default() }
    }
}

impl wire::WatchEvent {
    /// The event that says that the watch has begun.
    #[must_use]
    pub fn watching() -> Self {
        Self { event: Some(Event::Watching(Box::default())), ..Self::default() }
    }

    /// The change it tells of; `None` for the beginning, and for an event of a newer agent.
    #[must_use]
    pub fn into_change(self) -> Option<FileEvent> {
        match self.event? {
            Event::Watching(_) => None,
            Event::Created(it) => Some(FileEvent::Created((*it).into())),
            Event::Modified(it) => Some(FileEvent::Modified((*it).into())),
            Event::Attributes(it) => Some(FileEvent::Attributes((*it).into())),
            Event::Removed(it) => Some(FileEvent::Removed((*it).into())),
            Event::Renamed(it) => Some(FileEvent::Renamed {
                from: path_from_wire(it.from),
                to: Changed { path: path_from_wire(it.to), is_dir: it.directory },
            }),
            Event::Lost(_) => Some(FileEvent::Lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_time_survives_the_wire(seconds in -10_000_000_000_i64..10_000_000_000, nanos in 0_u32..1_000_000_000) {
            prop_assert_eq!(since_epoch(from_epoch(seconds, nanos)), (seconds, nanos));
        }
    }

    #[test]
    fn a_time_of_nonsense_is_the_epoch_and_no_crash() {
        assert_eq!(from_epoch(i64::MAX, u32::MAX), SystemTime::UNIX_EPOCH);
        since_epoch(from_epoch(i64::MIN, u32::MAX));
    }
}
