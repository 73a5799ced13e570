//! The small changes: directories, names, links, attributes.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use aetherium_agent_proto::files::{Attributes, FileInfo, FileMode, Reach};
use aetherium_agent_proto::{Refusal, RefusalKind};
use rustix::fs::Mode;

use super::info::{Names, numbers};
use crate::refuse::OrRefuse as _;

/// Makes a directory and those above it; whether it was not there before.
pub(super) fn make_dir(path: &Path, mode: FileMode) -> Result<bool, Refusal> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(mode.bits())) {
        Ok(()) => {
            // The agent's umask is none of the caller's business.
            set_mode(path, mode)?;
            Ok(true)
        }
        Err(rustix::io::Errno::EXIST) if path.is_dir() => Ok(false),
        Err(rustix::io::Errno::NOENT) => {
            let parent = path.parent().ok_or(rustix::io::Errno::NOENT).cannot("be made", path)?;
            make_dir(parent, mode)?;
            make_dir(path, mode)
        }
        Err(error) => Err(error).cannot("be made", path),
    }
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), Refusal> {
    std::fs::rename(from, to).or_refuse(format_args!(
        "`{}` cannot become `{}`",
        from.display(),
        to.display()
    ))
}

/// Removes a file, link or directory, and never what a link leads to.
pub(super) fn remove(path: &Path, reach: Reach) -> Result<(), Refusal> {
    if path.parent().is_none() {
        let detail = "`/` is the guest itself and is not removed; name what lies in it";
        return Err(Refusal::new(RefusalKind::InvalidRequest, detail));
    }
    let is_dir = std::fs::symlink_metadata(path).cannot("be removed", path)?.is_dir();
    let removed = match (is_dir, reach) {
        (false, _) => std::fs::remove_file(path),
        (true, Reach::Itself) => std::fs::remove_dir(path),
        // The library's walk holds each directory open and follows no link, whoever races it.
        (true, Reach::Recursive) => std::fs::remove_dir_all(path),
    };
    removed.cannot("be removed", path)
}

pub(super) fn symlink(target: &Path, path: &Path) -> Result<(), Refusal> {
    std::os::unix::fs::symlink(target, path).cannot("be made", path)
}

/// Changes owner, then mode: a change of owner clears set-id bits.
pub(super) fn set_attributes(path: &Path, wish: &Attributes) -> Result<FileInfo, Refusal> {
    let (uid, gid) = numbers(&wish.ownership)?;
    if uid.is_some() || gid.is_some() {
        std::os::unix::fs::lchown(path, uid, gid).cannot("be given away", path)?;
    }
    if let Some(mode) = wish.mode {
        set_mode(path, mode)?;
    }
    Names::read().look(path)
}

fn set_mode(path: &Path, mode: FileMode) -> Result<(), Refusal> {
    let set: io::Result<()> =
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode.bits()));
    set.cannot("be given its mode", path)
}
