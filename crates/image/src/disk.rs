//! Disks that outlive their VMs: copied, grown, cleared of what is free, written out.
//!
//! None of this touches a disk in place but [`reclaim`], which only gives back what nothing uses. A
//! disk is changed as a copy, which its owner then renames over it; so whatever ends a change half
//! way, the disk is as it was. The owner sees to it that no VM writes to a disk meanwhile.

use crate::{
    error::{OnPath, Result, blocking},
    ext4, sparse,
};
use aetherium_model::resources::DiskMib;
use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write},
    os::unix::fs::FileExt as _,
    path::Path,
};
use tempfile::NamedTempFile;

/// What is read of a disk at once, in bytes.
const CHUNK_BYTES: usize = 256 << 10;
/// Of a tar archive: POSIX.1-2017, pax, "ustar Interchange Format".
const BLOCK: usize = 512;

/// A copy of a disk that bears no name yet, and is gone if it never gets one.
#[derive(Debug)]
pub struct DiskCopy(NamedTempFile);

impl DiskCopy {
    /// What the file's name begins with until it gets one that counts.
    pub const PREFIX: &str = ".copy-";

    /// An empty file beside the place where the copy is to be.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn beside(place: &Path) -> Result<Self> {
        let dir = place.parent().unwrap_or(Path::new(".")).to_owned();
        blocking(move || {
            let named = tempfile::Builder::new().prefix(Self::PREFIX).tempfile_in(&dir);
            named.on("make a file in", &dir).map(Self)
        })
        .await
    }

    /// Fills it with a disk's content. Blocks are shared where the filesystem can do so; elsewhere the
    /// data is copied, and holes stay holes.
    ///
    /// # Errors
    /// The disk cannot be read, or there is no room.
    pub async fn fill(&self, disk: &Path) -> Result<()> {
        fill(self.file()?, disk).await
    }

    /// Another handle of the file, for whoever fills it by other means.
    ///
    /// # Errors
    /// This process has no descriptors left.
    pub fn file(&self) -> Result<File> {
        self.0.as_file().try_clone().on("open", self.0.path())
    }

    /// Grows its filesystem to `size`.
    ///
    /// # Errors
    /// The filesystem is broken, or there is no room.
    pub async fn grow(&self, size: DiskMib) -> Result<()> {
        ext4::grow(self.0.path(), u64::from(size.get()) << 20).await
    }

    /// Gives it its name, in the place of what had it.
    ///
    /// # Errors
    /// It cannot be written to the disk, or not renamed.
    pub async fn replace(self, place: &Path) -> Result<()> {
        let place = place.to_owned();
        blocking(move || {
            self.0.as_file().sync_all().on("write to disk", &place)?;
            self.0.persist(&place).map_err(|error| error.error).on("write", &place).map(drop)
        })
        .await
    }

    /// Gives it a name that nothing else has.
    ///
    /// # Errors
    /// It cannot be written to the disk, or the name is taken.
    pub async fn keep(self, place: &Path) -> Result<()> {
        let place = place.to_owned();
        blocking(move || {
            self.0.as_file().sync_all().on("write to disk", &place)?;
            self.0.persist_noclobber(&place).map_err(|error| error.error).on("make", &place)?;
            Ok(())
        })
        .await
    }

    /// An archive of it; the file has no name any more and goes with the archive.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn into_archive(self, name: &str) -> Result<DiskArchive> {
        let name = name.to_owned();
        blocking(move || {
            let path = self.0.path().to_owned();
            DiskArchive::of(self.0.into_file(), &name).on("read", &path)
        })
        .await
    }
}

/// Fills an empty file with a disk's content, as [`DiskCopy::fill`] does.
///
/// # Errors
/// The disk cannot be read, or there is no room.
pub async fn fill(file: File, disk: &Path) -> Result<()> {
    let disk = disk.to_owned();
    blocking(move || sparse::copy(&disk, &file)).await
}

/// Gives back to the host what no file of the disk uses, for VMMs that cannot do so while their guest
/// runs. Also makes the filesystem clean, as the next mount would.
///
/// # Errors
/// The filesystem is broken: then nothing is given back.
pub async fn reclaim(disk: &Path) -> Result<()> {
    ext4::discard_free(disk).await
}

/// A disk as a tar archive of one sparse file, in the PAX form 1.0 (GNU tar manual, "PAX Format,
/// Version 1.0"): holes are not in it, and `tar -x` makes them again.
#[derive(Debug)]
pub struct DiskArchive {
    file: File,
    /// Headers and map, before the data.
    head: Vec<u8>,
    /// The parts that have data, in order: offset and length.
    extents: Vec<(u64, u64)>,
}

impl DiskArchive {
    fn of(file: File, name: &str) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let extents = extents(&file, size)?;
        let mut map = format!("{}\n", extents.len() + 1);
        // A last part without data says how long the file is, as GNU tar has it.
        for (offset, bytes) in extents.iter().chain([&(size, 0)]) {
            map.push_str(&format!("{offset}\n{bytes}\n"));
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(BLOCK), 0);
        let data: u64 = extents.iter().map(|(_, bytes)| bytes).sum();
        let mut head = pax_header(name, size)?;
        head.extend(header(tar::EntryType::Regular, name, map.len() as u64 + data)?);
        head.extend(map);
        Ok(Self { file, head, extents })
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        let data: u64 = self.extents.iter().map(|(_, bytes)| bytes).sum();
        self.head.len() as u64 + data + padding(data) + 2 * BLOCK as u64
    }

    /// Writes all of it. Synchronous, and as long as the reader takes.
    ///
    /// # Errors
    /// The disk cannot be read, or the reader has gone.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.head)?;
        let (mut chunk, mut data) = (vec![0; CHUNK_BYTES], 0);
        for (offset, bytes) in &self.extents {
            let (mut at, end) = (*offset, offset + bytes);
            while at < end {
                let wanted = usize::try_from(end - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
                self.file.read_exact_at(&mut chunk[..wanted], at)?;
                out.write_all(&chunk[..wanted])?;
                at += wanted as u64;
            }
            data += bytes;
        }
        // The padding of the data, and the two blocks that end an archive.
        io::copy(&mut io::repeat(0).take(padding(data) + 2 * BLOCK as u64), out)?;
        out.flush()
    }
}

const fn padding(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK as u64) - bytes
}

/// The parts of a file that have data.
fn extents(mut file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let (mut extents, mut at) = (Vec::new(), 0);
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break, // only a hole is left
            Err(errno) => return Err(errno.into()),
        };
        at = seek(file, SeekFrom::Hole(start))?.min(size);
        extents.push((start, at - start));
    }
    file.rewind()?;
    Ok(extents)
}

/// The extended header that says that the next entry is sparse.
fn pax_header(name: &str, size: u64) -> io::Result<Vec<u8>> {
    let size = size.to_string();
    let records = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", name),
        ("GNU.sparse.realsize", &size),
    ];
    let records: String = records.iter().map(|(key, value)| record(key, value)).collect();
    let mut bytes = header(tar::EntryType::XHeader, "PaxHeaders/disk", records.len() as u64)?;
    bytes.extend(records.into_bytes());
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    Ok(bytes)
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + " =\n".len();
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

fn header(kind: tar::EntryType, name: &str, size: u64) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o600);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header.as_bytes().to_vec())
}

#[cfg(test)]
mod tests;
