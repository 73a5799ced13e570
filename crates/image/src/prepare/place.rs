//! The safe way of a changed image into its place.
//!
//! ```text
//! <dir>/<image>                    whole at any moment: what it was, or what it became
//! <dir>/<image>.previous           what it was before the last change
//! <dir>/.<image>.prepare-lock      held while one is prepared
//! <dir>/.<image>.prepare-XXXXXX/   a copy being changed, or what a killed run left
//! ```
//! Locks are the kernel's (`flock`) and end with their process however it ends, so a working directory
//! whose lock can be had is a leftover.

use crate::{
    error::{ImageError, OnPath, Result},
    lock, staging,
};
use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;

const LOCK: &str = "lock";

/// An image's name and directory.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) image: PathBuf,
    dir: PathBuf,
    /// What the names of the files beside it begin with.
    prefix: OsString,
}

/// The right to change an image; nobody else has it until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    place: Place,
    _lock: File,
}

impl Place {
    /// The place of an image, behind all links: a link to it stays one.
    pub(super) fn of(image: &Path) -> Result<Self> {
        let image = image.canonicalize().on("resolve", image)?;
        let (Some(dir), Some(name)) = (image.parent(), image.file_name()) else {
            let detail = "it is a directory".to_owned();
            return Err(ImageError::RootfsUnusable { path: image, detail });
        };
        let mut prefix = OsString::from(".");
        prefix.push(name);
        prefix.push(".prepare-");
        Ok(Self { dir: dir.to_owned(), prefix, image })
    }

    /// Where the image before the last change is kept.
    pub(super) fn previous(&self) -> PathBuf {
        let mut path = self.image.clone().into_os_string();
        path.push(".previous");
        path.into()
    }

    /// Takes the right to change it, waiting for it at most `patience`.
    pub(super) async fn hold(self, patience: Duration) -> Result<Held> {
        let path = self.dir.join(self.beside(LOCK));
        match lock::exclusive(&path, patience).await? {
            Some(lock) => Ok(Held { place: self, _lock: lock }),
            None => Err(ImageError::RootfsBusy { path: self.image, waited: patience }),
        }
    }

    fn beside(&self, ending: &str) -> OsString {
        let mut name = self.prefix.clone();
        name.push(ending);
        name
    }
}

impl Held {
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Removes what killed runs left, and returns how much that was.
    pub(super) fn sweep(&self) -> Result<usize> {
        let dir = &self.place.dir;
        let prefix = self.place.prefix.as_encoded_bytes();
        let mut removed = 0;
        for entry in fs::read_dir(dir).on("read directory", dir)? {
            let entry = entry.on("read directory", dir)?;
            let name = entry.file_name();
            let ending = name.as_encoded_bytes().strip_prefix(prefix);
            if ending.is_none_or(|ending| ending == LOCK.as_bytes()) {
                continue;
            }
            match fs::remove_dir_all(entry.path()) {
                Ok(()) => removed += 1,
                // A tool that outlived its run may still write there; the next run removes the rest.
                Err(error) => tracing::warn!(%error, "leaving a directory to the next run"),
            }
        }
        Ok(removed)
    }

    /// A directory beside the image, for a copy of it and what goes into that.
    pub(super) fn work(&self) -> Result<TempDir> {
        tempfile::Builder::new()
            .prefix(&self.place.prefix)
            .tempdir_in(&self.place.dir)
            .on("make directory in", &self.place.dir)
    }

    /// Puts `made`, a file of `work`, in the image's place, with the image's owner and mode, and keeps
    /// the image as the previous one. At every moment both names lead to whole images.
    pub(super) fn replace(&self, made: &Path, work: &Path) -> Result<()> {
        let (image, previous) = (&self.place.image, self.place.previous());
        let was = fs::metadata(image).on("look at", image)?;
        fs::set_permissions(made, was.permissions()).on("set permissions of", made)?;
        match std::os::unix::fs::chown(made, Some(was.uid()), Some(was.gid())) {
            // Somebody else's image, made anew by one who may not give it away.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            other => other.on("set owner of", made)?,
        }
        File::open(made).and_then(|file| file.sync_all()).on("write to disk", made)?;
        let kept = work.join("previous");
        fs::hard_link(image, &kept).on("keep a link to", image)?;
        fs::rename(&kept, &previous).on("keep the image as", &previous)?;
        staging::sync_dir(&self.place.dir)?;
        fs::rename(made, image).on("replace", image)?;
        staging::sync_dir(&self.place.dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("root.ext4");
        fs::write(&image, "old").unwrap();
        (dir, image)
    }

    async fn held(image: &Path) -> Held {
        Place::of(image).unwrap().hold(Duration::ZERO).await.unwrap()
    }

    #[tokio::test]
    async fn an_image_is_prepared_by_one_at_a_time() {
        let (_dir, image) = image();
        let first = held(&image).await;
        let second = Place::of(&image).unwrap().hold(Duration::from_millis(60)).await;
        assert!(matches!(second, Err(ImageError::RootfsBusy { .. })), "{second:?}");
        drop(first);
        held(&image).await;
    }

    #[tokio::test]
    async fn a_change_keeps_the_image_before_it_and_the_link_that_leads_to_it() {
        let (dir, image) = image();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&image, &link).unwrap();
        let held = held(&link).await;
        for (content, kept) in [("new", "old"), ("newer", "new")] {
            let work = held.work().unwrap();
            let made = work.path().join("image");
            fs::write(&made, content).unwrap();
            held.replace(&made, work.path()).unwrap();
            assert_eq!(fs::read_to_string(&link).unwrap(), content);
            assert_eq!(fs::read_to_string(held.place().previous()).unwrap(), kept);
        }
        assert!(link.is_symlink());
    }

    #[tokio::test]
    async fn only_what_killed_runs_of_this_image_left_is_swept() {
        let (dir, image) = image();
        let held = held(&image).await;
        let at = |name: &str| dir.path().join(name);
        for name in [".root.ext4.prepare-x1", ".other.ext4.prepare-x1"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("image"), "half").unwrap();
        }
        assert_eq!(held.sweep().unwrap(), 1);
        assert!(!at(".root.ext4.prepare-x1").exists());
        assert!(at(".other.ext4.prepare-x1").exists() && at(".root.ext4.prepare-lock").exists());
    }
}
