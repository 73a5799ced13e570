//! Empty writable disks, ready in milliseconds: each size is formatted once and then copied.
//!
//! ```text
//! <dir>/<size in MiB>.ext4    made on first use, never changed, safe to delete at any time
//! ```
//! Every copy carries the same label and UUID. That is no conflict: a VM has one such disk, and
//! finds it by [`OVERLAY_LABEL`].

use crate::{
    error::{OnPath, Result, blocking},
    ext4, sparse,
};
use aetherium_model::resources::DiskMib;
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// The label of every blank disk's filesystem, by which the guest finds it.
pub const OVERLAY_LABEL: &str = "aetherium-rw";

/// The pre-made blank disks of one directory. Any number of processes may use it at once.
#[derive(Debug, Clone)]
pub struct BlankDisks {
    dir: PathBuf,
}

impl BlankDisks {
    /// Opens the directory, making it if need be. Synchronous and short.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        fs::create_dir_all(&dir).on("make directory", &dir)?;
        Ok(Self { dir })
    }

    /// Makes `dest` a blank disk of `size`, sparse, readable by this user only. It appears whole
    /// or not at all; should its directory's power fail right after, it may be lost.
    ///
    /// # Errors
    /// If `dest` exists, or there is no room, or `mkfs.ext4` is missing when a size is first used.
    pub async fn clone_to(&self, dest: &Path, size: DiskMib) -> Result<()> {
        let blank = self.blank(size).await?;
        let dest = dest.to_owned();
        blocking(move || clone(&blank, &dest)).await
    }

    /// The pre-made disk of a size. Two who make it at once both make a good one; the last stays.
    async fn blank(&self, size: DiskMib) -> Result<PathBuf> {
        let place = self.dir.join(format!("{size}.ext4"));
        if place.exists() {
            return Ok(place);
        }
        let dir = self.dir.clone();
        let file = blocking(move || NamedTempFile::new_in(&dir).on("make a file in", &dir)).await?;
        ext4::make_blank(file.path(), u64::from(size.get()) << 20, OVERLAY_LABEL).await?;
        let persisted = place.clone();
        blocking(move || persist(file, &persisted)).await?;
        Ok(place)
    }
}

fn persist(file: NamedTempFile, place: &Path) -> Result<()> {
    file.as_file().sync_all().on("write to disk", place)?;
    file.persist(place).map_err(|error| error.error).on("write", place)?;
    Ok(())
}

fn clone(blank: &Path, dest: &Path) -> Result<()> {
    let dir = dest.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = NamedTempFile::new_in(dir).on("make a file in", dir)?;
    sparse::copy(blank, file.as_file())?;
    file.persist_noclobber(dest).map_err(|error| existing(error.error)).on("make", dest)?;
    Ok(())
}

/// A disk in the way holds somebody's data: say plainly that it was left alone.
fn existing(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::AlreadyExists => {
            io::Error::new(error.kind(), "a disk is there already; it was left as it is")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Tool;
    use std::{os::unix::fs::MetadataExt, time::Duration};

    fn size(mib: u32) -> DiskMib {
        DiskMib::try_from(mib).unwrap()
    }

    #[tokio::test]
    async fn a_blank_disk_is_clean_sparse_labelled_and_needs_no_initializing() {
        let dir = tempfile::tempdir().unwrap();
        let blanks = BlankDisks::open(dir.path().join("blanks")).unwrap();
        let disk = dir.path().join("disk");
        blanks.clone_to(&disk, size(2048)).await.unwrap();
        ext4::check(&disk).await.unwrap();
        let found = fs::metadata(&disk).unwrap();
        assert_eq!(found.len(), 2048 << 20);
        assert!(found.blocks() * 512 < 16 << 20, "{} bytes used", found.blocks() * 512);
        let dump = Tool::new("dumpe2fs", "e2fsprogs", Duration::from_secs(60)).arg(&disk);
        let dump = dump.run().await.unwrap();
        assert!(dump.contains("Filesystem volume name:   aetherium-rw\n"), "{dump}");
        let groups = dump
            .lines()
            .filter(|line| line.starts_with("Group ") && line.contains("(Blocks"))
            .count();
        assert!(groups > 1 && dump.matches("ITABLE_ZEROED").count() == groups, "{dump}");
    }

    #[tokio::test]
    async fn a_size_is_formatted_once_however_many_ask_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let disks: Vec<_> = (0..4).map(|n| dir.path().join(format!("disk{n}"))).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for disk in disks.clone() {
            // Each with its own view, as separate processes have.
            let blanks = BlankDisks::open(dir.path().join("blanks")).unwrap();
            tasks.spawn(async move { blanks.clone_to(&disk, size(32)).await });
        }
        for result in tasks.join_all().await {
            result.unwrap();
        }
        for disk in &disks {
            ext4::check(disk).await.unwrap();
        }
        let blank = dir.path().join("blanks/32.ext4");
        let made = fs::metadata(&blank).unwrap().ino();
        let blanks = BlankDisks::open(dir.path().join("blanks")).unwrap();
        blanks.clone_to(&dir.path().join("later"), size(32)).await.unwrap();
        assert_eq!(fs::metadata(&blank).unwrap().ino(), made);
        assert_eq!(fs::read_dir(dir.path().join("blanks")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_disk_in_the_way_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let blanks = BlankDisks::open(dir.path().join("blanks")).unwrap();
        let disk = dir.path().join("disk");
        fs::write(&disk, "precious").unwrap();
        let error = blanks.clone_to(&disk, size(16)).await.unwrap_err();
        assert!(error.to_string().contains("left as it is"), "{error}");
        assert_eq!(fs::read_to_string(&disk).unwrap(), "precious");
    }
}
