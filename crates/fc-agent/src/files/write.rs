//! Writing a file: whole and at once, or in place.
//!
//! ```text
//! replace:  temp file beside it ──data──► fsync ──► rename ──► fsync of the directory
//!                └── anything else: the temp file is removed
//! at:       the file itself ──data──► fsync
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aetherium_agent_proto::files::{
    DEFAULT_DIR_MODE, DEFAULT_FILE_MODE, FileInfo, FileMode, Placement, WriteOptions,
};
use aetherium_agent_proto::{Refusal, RefusalKind};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::info::{Names, numbers};
use super::{change, read};
use crate::refuse::OrRefuse as _;

/// A piece of an upload.
pub(super) enum Piece {
    Data(Bytes),
    /// Nothing is missing. The last one.
    Commit,
}

/// The refusal of an upload that ended without its commit.
pub(super) fn incomplete(path: &Path) -> Refusal {
    let detail = format!("the upload to `{}` ended before it was complete", path.display());
    Refusal::new(RefusalKind::Incomplete, detail)
}

/// Writes a file from the pieces of an upload.
pub(super) fn write(
    path: &Path,
    options: &WriteOptions,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<FileInfo, Refusal> {
    if options.make_parents
        && let Some(parent) = path.parent()
    {
        change::make_dir(parent, DEFAULT_DIR_MODE)?;
    }
    let wish = Wish::new(options)?;
    let mut destination = match options.placement {
        Placement::Replace => Destination::Replace(Box::new(Replacement::open(path, wish)?)),
        Placement::At(offset) => Destination::InPlace(open_at(path, offset, &wish)?),
    };
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Data(data)) => destination.file().write_all(&data).cannot(WRITE, path)?,
            Some(Piece::Commit) => break,
            None => return Err(incomplete(path)),
        }
    }
    match destination {
        Destination::Replace(replacement) => replacement.commit()?,
        Destination::InPlace(file) => file.sync_all().cannot(WRITE, path)?,
    }
    Names::read().look(path)
}

const WRITE: &str = "be written";

enum Destination {
    Replace(Box<Replacement>),
    InPlace(File),
}

impl Destination {
    fn file(&mut self) -> &mut File {
        match self {
            Self::Replace(replacement) => &mut replacement.file,
            Self::InPlace(file) => file,
        }
    }
}

/// What was asked of mode and owner.
struct Wish {
    mode: Option<FileMode>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Wish {
    fn new(options: &WriteOptions) -> Result<Self, Refusal> {
        let (uid, gid) = numbers(&options.ownership)?;
        Ok(Self { mode: options.mode, uid, gid })
    }

    /// Gives a file its owner and mode. The owner first: a change of it clears set-id bits.
    fn apply(&self, file: &File, path: &Path, default: Option<FileMode>) -> Result<(), Refusal> {
        if self.uid.is_some() || self.gid.is_some() {
            std::os::unix::fs::fchown(file, self.uid, self.gid).cannot("be given away", path)?;
        }
        match self.mode.or(default) {
            Some(mode) => file
                .set_permissions(std::fs::Permissions::from_mode(mode.bits()))
                .cannot("be given its mode", path),
            None => Ok(()),
        }
    }
}

/// Opens the file itself, at an offset.
fn open_at(path: &Path, offset: u64, wish: &Wish) -> Result<File, Refusal> {
    let mut open = std::fs::OpenOptions::new();
    open.write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let (mut file, default) = match open.clone().create_new(true).open(path) {
        Ok(file) => (file, Some(DEFAULT_FILE_MODE)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            (open.open(path).cannot("be opened", path)?, None)
        }
        Err(error) => return Err(error).cannot("be made", path),
    };
    read::expect_file(&file, path)?;
    wish.apply(&file, path, default)?;
    file.seek(SeekFrom::Start(offset)).cannot(WRITE, path)?;
    Ok(file)
}

/// A file that is to take the place of another. Dropped before its commit, it is removed.
struct Replacement {
    file: File,
    temp: PathBuf,
    path: PathBuf,
    wish: Wish,
    before: Option<Metadata>,
    committed: bool,
}

impl Replacement {
    fn open(path: &Path, wish: Wish) -> Result<Self, Refusal> {
        let path = follow(path)?;
        let before = match std::fs::symlink_metadata(&path) {
            Ok(before) => Some(before),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).cannot("be looked at", &path),
        };
        if let Some(before) = before.as_ref().filter(|it| !it.is_file()) {
            let kind =
                if before.is_dir() { RefusalKind::IsADirectory } else { RefusalKind::NotAFile };
            let detail = format!("`{}` is no regular file and stays as it is", path.display());
            return Err(Refusal::new(kind, detail));
        }
        let temp = temp_name(&path)?;
        let mut options = std::fs::OpenOptions::new();
        // Nobody else reads it before it is complete.
        let file = options.write(true).create_new(true).mode(0o600).open(&temp);
        let file = file.cannot("be made beside the file", &temp)?;
        Ok(Self { file, temp, path, wish, before, committed: false })
    }

    fn commit(mut self) -> Result<(), Refusal> {
        let mut mode = DEFAULT_FILE_MODE;
        if let Some(before) = &self.before {
            mode = FileMode::of_stat(before.mode());
            // Who may not give files away becomes the owner, as with any editor.
            let _ = std::os::unix::fs::fchown(&self.file, Some(before.uid()), Some(before.gid()));
        }
        self.wish.apply(&self.file, &self.path, Some(mode))?;
        self.file.sync_all().cannot(WRITE, &self.path)?;
        std::fs::rename(&self.temp, &self.path).cannot("be replaced", &self.path)?;
        self.committed = true;
        // The content is on disk; that the name is too matters after a crash only, and a directory
        // its user may not read cannot be opened for it.
        if let Some(Ok(dir)) = self.path.parent().map(File::open) {
            let _ = dir.sync_all();
        }
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.committed {
            let _ = std::fs::remove_file(&self.temp);
        }
    }
}

/// The file a path leads to, which need not exist.
fn follow(path: &Path) -> Result<PathBuf, Refusal> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => std::fs::canonicalize(path).cannot("be followed", path),
        _ => Ok(path.to_owned()),
    }
}

/// A name beside `path` that nobody can guess.
fn temp_name(path: &Path) -> Result<PathBuf, Refusal> {
    /// The longest name a file system takes, less what is put around it.
    const KEPT: usize = 200;
    let name = path.file_name().ok_or_else(|| {
        let detail = format!("`{}` names no file", path.display());
        Refusal::new(RefusalKind::IsADirectory, detail)
    })?;
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .or_refuse("the guest has no random numbers")?;
    let name = &name.as_encoded_bytes()[..name.len().min(KEPT)];
    let mut temp = OsString::from(".");
    temp.push(OsStr::new(&String::from_utf8_lossy(name).replace('\u{fffd}', "_")));
    temp.push(format!(".{:016x}", u64::from_ne_bytes(random)));
    Ok(path.with_file_name(temp))
}
