//! What big files with holes hold: digests of snapshots' memories, states and disks.
//!
//! Holes are most of such a file and are not read. BLAKE3, since a load waits for it: on one core it
//! is three times as fast as SHA-256. What was digested once is remembered for as long as the file is
//! the same by number, size and time of its last change, so that a load costs a look at each file
//! and not a reading of it; a worker that has just started reads each once more.

use crate::WorkerError;
use aetherium_model::Fault;
use aetherium_vmm::FileDigest;
use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};
use std::{
    collections::HashMap,
    fs::{File, Metadata},
    io,
    ops::Range,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// The unit in which zeros are told from other content, in bytes: a page, and a file system's block.
const BLOCK_BYTES: usize = 4096;
const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
/// How much is read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// What a hole in a file means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Holes {
    /// Zeros: a block of zeros and a hole are the same content.
    Zeros,
    /// Nothing: what a diff does not have stays as it was, and zeros are content.
    Nothing,
}

/// Digests by file, for as long as the file is the same.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    known: Mutex<HashMap<(PathBuf, Holes), (Stamp, FileDigest)>>,
}

/// What changes with a file's content: number, size and time of the last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    // Not the inode's own change time: a jail's link to the file changes that.
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            changed: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl Digests {
    /// What the file holds.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) async fn of(&self, path: &Path, holes: Holes) -> Result<FileDigest, Fault> {
        let failed = |error| Fault::from(WorkerError::io(path, error));
        let stamp = Stamp::of(&tokio::fs::metadata(path).await.map_err(failed)?);
        let key = (path.to_owned(), holes);
        if let Some((then, digest)) = self.lock().get(&key)
            && *then == stamp
        {
            return Ok(digest.clone());
        }
        let owned = path.to_owned();
        let digested = tokio::task::spawn_blocking(move || digest(&owned, holes)).await;
        let digest = digested.map_err(Fault::internal)?.map_err(failed)?;
        let mut known = self.lock();
        known.retain(|(path, _), _| path.exists());
        known.insert(key, (stamp, digest.clone()));
        Ok(digest)
    }

    /// Goes on knowing files whose directory was renamed.
    pub(crate) fn moved(&self, from: &Path, to: &Path) {
        let mut known = self.lock();
        let of_it = known.extract_if(|(path, _), _| path.starts_with(from)).collect::<Vec<_>>();
        for ((path, holes), value) in of_it {
            if let Ok(rest) = path.strip_prefix(from) {
                known.insert((to.join(rest), holes), value);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(PathBuf, Holes), (Stamp, FileDigest)>> {
        // A panic elsewhere leaves at most one entry out.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a file's data and digests it: its content, followed by where that content is.
fn digest(path: &Path, holes: Holes) -> io::Result<FileDigest> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let (mut sum, mut buffer) = (Sum::default(), vec![0; BUFFER_BYTES]);
    let (mut at, block) = (0, BLOCK_BYTES as u64);
    while at < size {
        let data = match seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data - data % block,
            Err(Errno::NXIO) => break, // only a hole is left
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(&file, SeekFrom::Hole(data.max(at)))?.next_multiple_of(block).min(size);
        at = data;
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
            let part = &mut buffer[..wanted];
            file.read_exact_at(part, at)?;
            match holes {
                Holes::Nothing => sum.add(at, part),
                Holes::Zeros => sum.add_but_zeros(at, part),
            }
            at += wanted as u64;
        }
    }
    Ok(FileDigest { size, digest: sum.finish() })
}

/// A digest in the making.
#[derive(Default)]
struct Sum {
    content: blake3::Hasher,
    places: blake3::Hasher,
    run: Range<u64>,
}

impl Sum {
    /// Adds content that begins at `offset`.
    fn add(&mut self, offset: u64, content: &[u8]) {
        if self.run.end != offset {
            self.end_run();
            self.run.start = offset;
        }
        self.run.end = offset + content.len() as u64;
        self.content.update(content);
    }

    /// Adds the content's blocks that are not all zeros.
    fn add_but_zeros(&mut self, offset: u64, content: &[u8]) {
        let is_zero = |block: &[u8]| block == &ZEROS[..block.len()];
        let (mut from, mut to) = (0, 0);
        for block in content.chunks(BLOCK_BYTES) {
            let next = to + block.len();
            if is_zero(block) {
                if from < to {
                    self.add(offset + from as u64, &content[from..to]);
                }
                from = next;
            }
            to = next;
        }
        if from < to {
            self.add(offset + from as u64, &content[from..to]);
        }
    }

    fn end_run(&mut self) {
        if !self.run.is_empty() {
            self.places.update(&self.run.start.to_le_bytes());
            self.places.update(&self.run.end.to_le_bytes());
        }
    }

    fn finish(mut self) -> String {
        self.end_run();
        self.content.update(self.places.finalize().as_bytes());
        format!("blake3:{}", self.content.finalize().to_hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Files of the same content, without holes and with them.
    fn files(dir: &Path, marks: [usize; 2]) -> (PathBuf, PathBuf) {
        let (sparse, dense) = (dir.join("sparse"), dir.join("dense"));
        let mut content = vec![0; 600 * BLOCK_BYTES + 100];
        let file = File::create(&sparse).unwrap();
        file.set_len(content.len() as u64).unwrap();
        for at in marks {
            content[at] = 1;
            file.write_all_at(&[1], at as u64).unwrap();
        }
        fs::write(&dense, &content).unwrap();
        (sparse, dense)
    }

    #[test]
    fn where_holes_are_zeros_a_digest_depends_on_the_content_alone() {
        let dir = tempfile::tempdir().unwrap();
        let last = 600 * BLOCK_BYTES + 99;
        let (sparse, dense) = files(dir.path(), [40 * BLOCK_BYTES + 7, last]);
        let before = digest(&sparse, Holes::Zeros).unwrap();
        assert_eq!(before, digest(&dense, Holes::Zeros).unwrap());

        let (moved, _) = files(dir.path(), [41 * BLOCK_BYTES + 7, last]);
        assert_ne!(before.digest, digest(&moved, Holes::Zeros).unwrap().digest, "it has a place");
    }

    #[test]
    fn where_holes_are_nothing_zeros_are_content() {
        let dir = tempfile::tempdir().unwrap();
        let (sparse, _) = files(dir.path(), [0, 40 * BLOCK_BYTES]);
        let before = digest(&sparse, Holes::Nothing).unwrap();
        let file = File::options().write(true).open(&sparse).unwrap();
        file.write_all_at(&ZEROS, 100 * BLOCK_BYTES as u64).unwrap();
        assert_ne!(before.digest, digest(&sparse, Holes::Nothing).unwrap().digest);
    }

    #[tokio::test]
    async fn a_file_that_was_changed_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let digests = Digests::default();
        fs::write(&path, "one").unwrap();
        let one = digests.of(&path, Holes::Zeros).await.unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"two", 0).unwrap();
        // Whatever the clock of the file system is worth.
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert_ne!(digests.of(&path, Holes::Zeros).await.unwrap(), one);
    }

    #[tokio::test]
    async fn a_file_in_a_renamed_directory_is_known_still() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("file"), "one").unwrap();
        let digests = Digests::default();
        let one = digests.of(&from.join("file"), Holes::Zeros).await.unwrap();
        fs::rename(&from, &to).unwrap();
        digests.moved(&from, &to);
        // Not to be seen by number, size and time; so only a reading of it would tell.
        let stamp = fs::metadata(to.join("file")).unwrap().modified().unwrap();
        let file = File::options().write(true).open(to.join("file")).unwrap();
        file.write_all_at(b"two", 0).unwrap();
        file.set_modified(stamp).unwrap();
        assert_eq!(digests.of(&to.join("file"), Holes::Zeros).await.unwrap(), one);
    }
}
