//! What a file is, with the names of its owner and group.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aetherium_agent_proto::files::{FileInfo, FileKind, FileMode, Ownership};
use aetherium_agent_proto::{Refusal, RefusalKind};

use crate::actor::unknown;
use crate::exec::Accounts;
use crate::refuse::OrRefuse as _;

/// The guest's names for numbers, read once for a piece of work.
pub(super) struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    pub(super) fn read() -> Self {
        Self { users: names_in("/etc/passwd"), groups: names_in("/etc/group") }
    }

    /// What a link, or anything else, is itself.
    pub(super) fn look(&self, path: &Path) -> Result<FileInfo, Refusal> {
        let metadata = std::fs::symlink_metadata(path).cannot("be looked at", path)?;
        Ok(self.describe(path.to_owned(), &metadata))
    }

    pub(super) fn describe(&self, path: PathBuf, metadata: &Metadata) -> FileInfo {
        let kind = kind(metadata);
        // A link that is gone meanwhile has no target any more.
        let link_target =
            (kind == FileKind::Symlink).then(|| std::fs::read_link(&path).unwrap_or_default());
        FileInfo {
            path,
            kind,
            size: metadata.size(),
            mode: FileMode::of_stat(metadata.mode()),
            uid: metadata.uid(),
            gid: metadata.gid(),
            user: self.users.get(&metadata.uid()).cloned(),
            group: self.groups.get(&metadata.gid()).cloned(),
            modified: modified(metadata),
            link_target,
        }
    }

    fn group_id(&self, name: &str) -> Option<u32> {
        let named = self.groups.iter().find(|(_, it)| *it == name);
        named.map(|(id, _)| *id).or_else(|| name.parse().ok())
    }
}

/// The numbers of an owner and a group.
pub(super) fn numbers(ownership: &Ownership) -> Result<(Option<u32>, Option<u32>), Refusal> {
    let uid = match &ownership.user {
        Some(name) => {
            let user = Accounts::read(Path::new("/etc")).find(name);
            Some(user.ok_or_else(|| unknown(name))?.uid)
        }
        None => None,
    };
    let gid = match &ownership.group {
        Some(name) => Some(Names::read().group_id(name).ok_or_else(|| {
            let detail = format!(
                "group `{name}` does not exist in the guest; add it to /etc/group or give a number"
            );
            Refusal::new(RefusalKind::UnknownGroup, detail)
        })?),
        None => None,
    };
    Ok((uid, gid))
}

/// Both files begin each line with name, password and number.
fn names_in(file: &str) -> HashMap<u32, String> {
    let text = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), _, Some(number)) = (fields.next(), fields.next(), fields.next())
            && let Ok(number) = number.parse()
        {
            // The first line of a number gives its name.
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}

fn kind(metadata: &Metadata) -> FileKind {
    let kind = metadata.file_type();
    if kind.is_dir() {
        FileKind::Directory
    } else if kind.is_symlink() {
        FileKind::Symlink
    } else if kind.is_fifo() {
        FileKind::Fifo
    } else if kind.is_socket() {
        FileKind::Socket
    } else if kind.is_block_device() {
        FileKind::BlockDevice
    } else if kind.is_char_device() {
        FileKind::CharDevice
    } else {
        FileKind::File
    }
}

fn modified(metadata: &Metadata) -> SystemTime {
    let nanos = Duration::from_nanos(metadata.mtime_nsec().unsigned_abs());
    let whole = Duration::from_secs(metadata.mtime().unsigned_abs());
    let at = if metadata.mtime() < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    at.and_then(|at| at.checked_add(nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
}
