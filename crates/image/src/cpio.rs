//! Writes cpio archives in the `newc` format, the one Linux unpacks as initramfs.
//!
//! Owns the bytes of an archive and nothing else: no file is read here. The same entries give the
//! same bytes, for there are no times and all is owned by root. Needs no privileges, not even for
//! device nodes. Format: `Documentation/driver-api/early-userspace/buffer-format.rst` of Linux.

/// The kernel finds the next archive of a concatenation at any multiple of four; whole sectors are
/// what archivers write.
const SEGMENT_ALIGN: usize = 512;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFCHR: u32 = 0o020_000;
const TRAILER: &str = "TRAILER!!!";

/// One file, directory or device node of an archive, owned by root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    path: String,
    permissions: u32,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Directory,
    File(Vec<u8>),
    CharDevice { major: u32, minor: u32 },
}

impl Entry {
    /// A directory. `path` may begin with a slash; the archive holds it without.
    pub fn directory(path: &str, permissions: u32) -> Self {
        Self::new(path, permissions, Content::Directory)
    }

    /// A file. The format cannot hold one of 4 GiB or more: see [`segment`].
    pub fn file(path: &str, permissions: u32, data: impl Into<Vec<u8>>) -> Self {
        Self::new(path, permissions, Content::File(data.into()))
    }

    /// A character device.
    pub fn char_device(path: &str, permissions: u32, major: u32, minor: u32) -> Self {
        Self::new(path, permissions, Content::CharDevice { major, minor })
    }

    fn new(path: &str, permissions: u32, content: Content) -> Self {
        let path = path.trim_matches('/').to_owned();
        Self { path, permissions: permissions & 0o7777, content }
    }
}

/// One complete archive, padded so that another may follow it: the kernel unpacks a concatenation
/// one after the other, and a later file replaces an earlier one of the same path.
///
/// Entries are written in the order given: a directory must come before what is in it.
///
/// # Panics
/// If a file is 4 GiB or larger, which the format cannot express.
pub fn segment(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let (kind, links, data, device): (_, _, &[u8], _) = match &entry.content {
            Content::Directory => (S_IFDIR, 2, &[], (0, 0)),
            Content::File(data) => (S_IFREG, 1, data, (0, 0)),
            Content::CharDevice { major, minor } => (S_IFCHR, 1, &[], (*major, *minor)),
        };
        let mode = kind | entry.permissions;
        write_record(&mut out, index + 1, mode, links, device, &entry.path, data);
    }
    write_record(&mut out, 0, 0, 1, (0, 0), TRAILER, &[]);
    pad(&mut out, SEGMENT_ALIGN);
    out
}

fn write_record(
    out: &mut Vec<u8>,
    inode: usize,
    mode: u32,
    links: u32,
    (major, minor): (u32, u32),
    path: &str,
    data: &[u8],
) {
    #[expect(clippy::expect_used, reason = "a documented limit of the format")]
    let field = |length: usize| u32::try_from(length).expect("a newc record is below 4 GiB");
    let (uid, gid, mtime, checksum) = (0, 0, 0, 0);
    let header = [
        field(inode),
        mode,
        uid,
        gid,
        links,
        mtime,
        field(data.len()),
        0, // the device the file was on: major,
        0, // and minor
        major,
        minor,
        field(path.len() + 1),
        checksum,
    ];
    out.extend_from_slice(b"070701");
    for value in header {
        out.extend_from_slice(format!("{value:08X}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out, 4);
    out.extend_from_slice(data);
    pad(out, 4);
}

fn pad(out: &mut Vec<u8>, align: usize) {
    out.resize(out.len().next_multiple_of(align), 0);
}

#[cfg(test)]
mod tests;
