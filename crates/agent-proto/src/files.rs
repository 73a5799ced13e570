//! Files of a guest: what they are, how to write them, what changes.

use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

/// Permission bits of a new file where a request does not say.
pub const DEFAULT_FILE_MODE: FileMode = FileMode(0o644);
/// Permission bits of a new directory where a request does not say.
pub const DEFAULT_DIR_MODE: FileMode = FileMode(0o755);

/// Permission bits, with set-id and sticky bits: 0 to 0o7777.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileMode(u32);

/// A number that holds more than permission bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("mode {0:#o} holds more than permission bits; give 0 to 0o7777")]
pub struct InvalidMode(pub u32);

impl FileMode {
    /// Takes permission bits.
    ///
    /// # Errors
    /// [`InvalidMode`] above 0o7777.
    pub const fn new(bits: u32) -> Result<Self, InvalidMode> {
        if bits > 0o7777 { Err(InvalidMode(bits)) } else { Ok(Self(bits)) }
    }

    /// The permission bits of a `st_mode`, without its file type.
    #[must_use]
    pub const fn of_stat(st_mode: u32) -> Self {
        Self(st_mode & 0o7777)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#o}", self.0)
    }
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharDevice,
}

/// What a guest says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Its absolute path.
    pub path: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// Its length in bytes.
    pub size: u64,
    /// Its permission bits.
    pub mode: FileMode,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The owner's name, if the guest has one.
    pub user: Option<String>,
    /// The group's name, if the guest has one.
    pub group: Option<String>,
    /// When its content changed last, by the guest's clock.
    pub modified: SystemTime,
    /// Where a symbolic link leads, as it is written.
    pub link_target: Option<PathBuf>,
}

/// Which part of a file to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ByteRange {
    /// The first byte.
    pub offset: u64,
    /// How many; to the end if absent.
    pub length: Option<u64>,
}

/// Where written bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// Into a new file, which takes the place of the old one when it is complete and on disk. Readers
    /// see the old or the new one, never a part. A link is followed and its target replaced.
    #[default]
    Replace,
    /// Into the file as it is, from this byte on; made if it is not there. What a broken upload wrote
    /// stays.
    At(u64),
}

/// An owner and a group by name or number; what is absent stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ownership {
    /// The owner.
    pub user: Option<String>,
    /// The group.
    pub group: Option<String>,
}

/// How to write a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteOptions {
    /// Where the bytes go.
    pub placement: Placement,
    /// Permission bits; those of the file before, else [`DEFAULT_FILE_MODE`].
    pub mode: Option<FileMode>,
    /// Owner and group; those of the file before, else who writes.
    pub ownership: Ownership,
    /// Whether to make the directories above.
    pub make_parents: bool,
}

/// What to change of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission bits. Of a link, its target's.
    pub mode: Option<FileMode>,
    /// Owner and group. Of a link, its own.
    pub ownership: Ownership,
}

/// Whether a directory stands for all that is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The directory alone.
    Itself,
    /// Everything below it too.
    Recursive,
}

/// Which symbolic links of an archive are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinkPolicy {
    /// Those that stay inside the directory; others are refused.
    #[default]
    Inside,
    /// All. None is followed while unpacking.
    Any,
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
}

/// What happened below a watched directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileEvent {
    /// It is there now. Of a new directory's content some may be told twice.
    Created(Changed),
    /// Its content changed.
    Modified(Changed),
    /// Its mode, owner or times changed.
    Attributes(Changed),
    /// It is gone, or moved out of sight.
    Removed(Changed),
    /// It has another name, within what is watched.
    Renamed {
        /// The name before.
        from: PathBuf,
        /// The name now.
        to: Changed,
    },
    /// Events were lost because they came faster than they were read: look at the directory anew.
    Lost,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Its absolute path.
    pub path: PathBuf,
    /// Whether it is a directory.
    pub is_dir: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_permission_bits_and_nothing_else() {
        assert_eq!(FileMode::new(0o7777).unwrap().bits(), 0o7777);
        assert_eq!(FileMode::new(0o10000), Err(InvalidMode(0o10000)));
        assert_eq!(FileMode::of_stat(0o100_644), DEFAULT_FILE_MODE);
        assert_eq!(format!("{DEFAULT_DIR_MODE:?}"), "0o755");
    }
}
