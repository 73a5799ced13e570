//! Puts owners, modes, times and attributes on a finished tree.
//!
//! As root, on the files themselves. As anybody else they are written down as `fakeroot` keeps them,
//! and `mkfs.ext4` run under it sees them: the files stay this user's, readable and writable.

use super::{
    Problem, Tree,
    entry::Meta,
    problem::OnHost as _,
    tree::{is_dir, names, open_child},
};
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use std::{
    ffi::OsStr,
    fs::File,
    io::{BufWriter, Write as _},
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

/// Where owners and modes go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ownership<'a> {
    /// On the files: this process is root.
    Real,
    /// Into this file, for `fakeroot -i`.
    Recorded(&'a Path),
}

struct Sealer<'a> {
    tree: &'a Tree,
    record: Option<BufWriter<File>>,
    lost_attributes: u64,
}

impl Tree {
    /// Ends the tree's making. Returns how many attributes the host would not take.
    pub(crate) fn seal(self, ownership: Ownership<'_>) -> Result<u64, Problem> {
        let record = match ownership {
            Ownership::Real => None,
            Ownership::Recorded(path) => {
                Some(BufWriter::new(File::create_new(path).host("write the owners of")?))
            }
        };
        let mut sealer = Sealer { tree: &self, record, lost_attributes: 0 };
        sealer.directory(self.root())?;
        let found = rustix::fs::fstat(self.root()).host("look at")?;
        sealer.file(self.root(), OsStr::new("."), &found)?;
        if let Some(record) = &mut sealer.record {
            record.flush().host("write the owners of")?;
        }
        Ok(sealer.lost_attributes)
    }
}

impl Sealer<'_> {
    /// What is inside first: a directory's time changes with it.
    fn directory(&mut self, dir: BorrowedFd<'_>) -> Result<(), Problem> {
        for name in names(dir)? {
            let found =
                rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW).host("look at")?;
            if is_dir(&found) {
                let child: OwnedFd = open_child(dir, &name)?;
                self.directory(std::os::fd::AsFd::as_fd(&child))?;
            }
            self.file(dir, &name, &found)?;
        }
        Ok(())
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &OsStr, found: &Stat) -> Result<(), Problem> {
        let meta = self.tree.meta(found.st_ino);
        let kind = FileType::from_raw_mode(found.st_mode);
        match &mut self.record {
            Some(record) => {
                let mode = (found.st_mode & !0o7777) | mode_of(kind, &meta);
                let line = format!(
                    "dev={:x},ino={},mode={mode:o},uid={},gid={},nlink={},rdev=0\n",
                    found.st_dev, found.st_ino, meta.uid, meta.gid, found.st_nlink
                );
                record.write_all(line.as_bytes()).host("write the owners of")?;
            }
            None => own(dir, name, found, &meta)?,
        }
        if matches!(kind, FileType::RegularFile | FileType::Directory) {
            self.attributes(dir, name, &meta)?;
        }
        let time = Timespec { tv_sec: meta.mtime.0, tv_nsec: i64::from(meta.mtime.1) };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW).host("set the time of")
    }

    fn attributes(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        meta: &Meta,
    ) -> Result<(), Problem> {
        if meta.attributes.is_empty() {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, name, flags, Mode::empty()).host("open")?;
        for (attribute, value) in &meta.attributes {
            match rustix::fs::fsetxattr(&file, attribute, value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::PERM | Errno::ACCESS | Errno::NOTSUP | Errno::INVAL) => {
                    self.lost_attributes += 1;
                }
                Err(errno) => return Err(errno).host("set an attribute of"),
            }
        }
        Ok(())
    }
}

/// The owner first: a change of it takes set-user-id bits away.
fn own(dir: BorrowedFd<'_>, name: &OsStr, found: &Stat, meta: &Meta) -> Result<(), Problem> {
    if (found.st_uid, found.st_gid) != (meta.uid, meta.gid) {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .host("set the owner of")?;
    }
    if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
        let mode = Mode::from_raw_mode(meta.mode);
        rustix::fs::chmodat(dir, name, mode, AtFlags::empty()).host("set the mode of")?;
    }
    Ok(())
}

fn mode_of(kind: FileType, meta: &Meta) -> u32 {
    if kind == FileType::Symlink { 0o777 } else { meta.mode }
}
