//! What one entry of a layer does to the tree: pure, without any file.

use super::{
    Problem, TreePath,
    archive::{Body, RawEntry, number},
};
use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};
use tar::EntryType;

/// How a layer says that something of the layers below it is gone: OCI image specification,
/// "Whiteouts".
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Bookkeeping of AUFS, where whiteouts come from; it means nothing anywhere else.
const AUFS_OWN: &[u8] = b".wh..wh.";

/// What ext4 keeps of extended attributes: a block, and what is left of the inode.
const MAX_ATTRIBUTE_BYTES: usize = 3840;
const ATTRIBUTE_RECORD: &[u8] = b"SCHILY.xattr.";
/// Attributes that mean something in a guest. Labels of the maker's own host do not, and those in
/// `trusted.` would steer the guest's overlay.
const KEPT_ATTRIBUTES: [&[u8]; 3] = [b"user.", b"security.capability", b"system.posix_acl_"];

/// What an entry does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// Something is there from now on, in the place of what was there.
    Put { path: TreePath, node: Node, meta: Meta },
    /// Another name for a file that is there.
    Link { path: TreePath, target: TreePath },
    /// What the layers below have there is gone.
    Hide { path: TreePath },
    /// Everything that the layers below have in this directory is gone.
    HideBelow { dir: TreePath },
    /// A device node, which a guest makes by itself.
    Device,
    /// Nothing.
    Nothing,
}

/// What is put.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Node {
    Directory,
    File(Body),
    Symlink(OsString),
    Fifo,
}

/// Who owns it, who may do what, since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meta {
    /// Permission bits, with set-user-id, set-group-id and sticky.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds of the last change since 1970.
    pub(super) mtime: (i64, u32),
    pub(super) attributes: Vec<(OsString, Vec<u8>)>,
}

impl Meta {
    /// Of a directory that no entry describes, but that one lies in.
    pub(super) const fn implied() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0), attributes: Vec::new() }
    }
}

impl Item {
    /// Judges an entry.
    pub(super) fn of(raw: RawEntry) -> Result<Self, Problem> {
        let path = TreePath::parse(&raw.name)?;
        if let Some(item) = whiteout(&raw.name, &path)? {
            return Ok(item);
        }
        let node = match raw.header.entry_type() {
            EntryType::Directory => Node::Directory,
            // Before POSIX had a type for directories, a slash told them.
            EntryType::Regular if raw.name.ends_with(b"/") => Node::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                Node::File(raw.body.clone())
            }
            EntryType::Symlink => Node::Symlink(link_text(&raw.link)?),
            EntryType::Link => {
                let target = TreePath::parse(&raw.link)?;
                return Ok(Self::Link { path, target });
            }
            EntryType::Fifo => Node::Fifo,
            EntryType::Char | EntryType::Block => return Ok(Self::Device),
            other => return Err(Problem::Type { flag: char::from(other.as_byte()) }),
        };
        let meta = meta(&raw)?;
        Ok(Self::Put { path, node, meta })
    }
}

fn whiteout(name: &[u8], path: &TreePath) -> Result<Option<Item>, Problem> {
    let last = name.rsplit(|byte| *byte == b'/').find(|part| !part.is_empty()).unwrap_or_default();
    if last == OPAQUE {
        return Ok(Some(Item::HideBelow { dir: path.parent() }));
    }
    if last.starts_with(AUFS_OWN) {
        return Ok(Some(Item::Nothing));
    }
    match last.strip_prefix(WHITEOUT) {
        None => Ok(None),
        Some(b"" | b"." | b"..") => Err(Problem::EmptyWhiteout),
        Some(hidden) => Ok(Some(Item::Hide { path: path.sibling(hidden) })),
    }
}

/// The text of a symbolic link. Where it points is the guest's business.
fn link_text(text: &[u8]) -> Result<OsString, Problem> {
    if text.is_empty() || text.contains(&0) || text.len() > 4095 {
        return Err(Problem::LinkText { bytes: text.len() });
    }
    Ok(OsString::from_vec(text.to_owned()))
}

fn meta(raw: &RawEntry) -> Result<Meta, Problem> {
    let id = |key: &str, field, of_header: std::io::Result<u64>| {
        let number = match raw.records.get(key.as_bytes()) {
            Some(digits) => super::sparse::number(digits).ok_or_else(|| lossy(digits)),
            None => of_header.map_err(|error| error.to_string()),
        };
        number
            .and_then(|number| u32::try_from(number).map_err(|_| number.to_string()))
            .map_err(|detail| Problem::Field { field, detail })
    };
    let old = raw.header.as_old();
    let mode = number(&old.mode, raw.header.mode().map(u64::from))
        .map_err(|error| Problem::Field { field: "mode", detail: error.to_string() })?;
    Ok(Meta {
        mode: u32::try_from(mode & 0o7777).unwrap_or(0),
        uid: id("uid", "owner", number(&old.uid, raw.header.uid()))?,
        gid: id("gid", "group", number(&old.gid, raw.header.gid()))?,
        mtime: mtime(raw),
        attributes: attributes(raw)?,
    })
}

/// A time that makes no sense is no reason to refuse a file.
fn mtime(raw: &RawEntry) -> (i64, u32) {
    let of_record = raw.records.get(&b"mtime"[..]).and_then(|text| {
        let text = std::str::from_utf8(text).ok()?;
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let nanoseconds = format!("{fraction:0<9}");
        Some((seconds.parse().ok()?, nanoseconds.get(..9)?.parse().ok()?))
    });
    let of_header = || raw.header.mtime().ok().and_then(|seconds| i64::try_from(seconds).ok());
    of_record.or_else(|| Some((of_header()?, 0))).unwrap_or((0, 0))
}

fn attributes(raw: &RawEntry) -> Result<Vec<(OsString, Vec<u8>)>, Problem> {
    let mut kept = Vec::new();
    let mut bytes = 0;
    for (key, value) in &raw.records {
        let Some(name) = key.strip_prefix(ATTRIBUTE_RECORD) else { continue };
        if !KEPT_ATTRIBUTES.iter().any(|prefix| name.starts_with(prefix)) || name.contains(&0) {
            continue;
        }
        // An entry of the block: its header, name and value, each rounded up to four bytes.
        bytes += 16 + name.len().next_multiple_of(4) + value.len().next_multiple_of(4);
        kept.push((OsString::from_vec(name.to_owned()), value.clone()));
    }
    if bytes > MAX_ATTRIBUTE_BYTES {
        return Err(Problem::Attributes { bytes, max: MAX_ATTRIBUTE_BYTES });
    }
    Ok(kept)
}

fn lossy(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(bytes))
}
