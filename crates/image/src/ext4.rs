//! Makes, resizes, checks and recognizes ext4 images. Nothing is ever mounted: `mkfs.ext4 -d` fills an
//! image from a directory, `resize2fs` gives it room, and `e2fsck -fn` reads it back.

use crate::{
    command::Tool,
    error::{ImageError, OnPath, Result, blocking},
};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    time::Duration,
};

const MKFS_DEADLINE: Duration = Duration::from_secs(300);
const FSCK_DEADLINE: Duration = Duration::from_secs(300);
const GROW_DEADLINE: Duration = Duration::from_secs(300);
const PACKAGE: &str = "e2fsprogs";

const BLOCK_BYTES: u64 = 4096;
const INODE_BYTES: u64 = 256;
/// One group of blocks, whose bitmaps take two of them.
const BLOCKS_PER_GROUP: u64 = 8 * BLOCK_BYTES;
/// Inodes that ext4 keeps for itself.
const RESERVED_INODES: u64 = 11;
/// Inodes for a start. A filesystem that grows gets the same number again with each 128 MiB, so that
/// one made for three files must not stay at three; unused they take no room on the disk.
const LEAST_INODES: u64 = 2048;
/// A symbolic link shorter than this lies in its inode.
const FAST_LINK_BYTES: u64 = 60;
/// Where the superblock begins, and in it the magic number and the UUID:
/// `Documentation/filesystems/ext4/super.rst` of Linux.
const SUPERBLOCK: u64 = 1024;
const SUPER_MAGIC: u64 = SUPERBLOCK + 0x38;
const SUPER_UUID: u64 = SUPERBLOCK + 0x68;
const MAGIC: [u8; 2] = [0x53, 0xef];

/// What e2fsprogs takes for the present moment: the time of the last write is part of an image.
const FAKE_TIME: (&str, &str) = ("E2FSPROGS_FAKE_TIME", "1");
/// For a blank disk. What describes it lies together, and one copy of the superblock suffices: each
/// part apart costs time in every copy of a large one.
const BLANK_OPTIONS: &str = "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1,discard,\
                             packed_meta_blocks=1,num_backup_sb=1";

/// How much room the content of a directory takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) inodes: u64,
    pub(crate) blocks: u64,
}

impl Content {
    /// Measures a directory, without following links. Synchronous.
    pub(crate) fn of(dir: &Path) -> Result<Self> {
        let mut content = Self { inodes: 1, blocks: 1 };
        content.add(dir, &mut BTreeSet::new())?;
        Ok(content)
    }

    fn add(&mut self, dir: &Path, linked: &mut BTreeSet<(u64, u64)>) -> Result<()> {
        for entry in fs::read_dir(dir).on("read directory", dir)? {
            let path = entry.on("read directory", dir)?.path();
            let found = fs::symlink_metadata(&path).on("look at", &path)?;
            let many = !found.is_dir() && found.nlink() > 1;
            if many && !linked.insert((found.dev(), found.ino())) {
                continue;
            }
            self.inodes += 1;
            self.blocks += match found.len() {
                size if found.is_file() => size.div_ceil(BLOCK_BYTES),
                // The host's filesystem may tell another size for a directory than ext4 needs.
                size if found.is_dir() => size.div_ceil(BLOCK_BYTES).max(1),
                size => u64::from(found.is_symlink() && size >= FAST_LINK_BYTES),
            };
            if found.is_dir() {
                self.add(&path, linked)?;
            }
        }
        Ok(())
    }

    /// The inodes of an image for it.
    fn image_inodes(self) -> u64 {
        (self.inodes + RESERVED_INODES + 16).max(LEAST_INODES)
    }

    /// The size of an image that just holds it, in bytes: for reading, with little to spare.
    fn image_bytes(self) -> u64 {
        let inode_blocks = (self.image_inodes() * INODE_BYTES).div_ceil(BLOCK_BYTES);
        // Extents of fragmented files, directories larger than on the host, descriptors.
        let spare = self.blocks / 32 + 1024;
        let blocks = self.blocks + inode_blocks + spare;
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        // Whole MiB, which every VMM takes for a disk.
        ((blocks + 4 * groups) * BLOCK_BYTES).next_multiple_of(1 << 20)
    }
}

/// Makes an image that holds a directory, to be mounted read-only: no journal, nothing reserved.
///
/// `wrap` may run the tool under another, such as one that pretends to be root.
pub(crate) async fn make_from_dir(
    image: &Path,
    dir: &Path,
    content: Content,
    uuid: &str,
    wrap: impl FnOnce(Tool<'static>) -> Result<Tool<'static>>,
) -> Result<()> {
    let file = File::create_new(image).on("make", image)?;
    file.set_len(content.image_bytes()).on("size", image)?;
    let mkfs = Tool::new("mkfs.ext4", PACKAGE, MKFS_DEADLINE)
        .args(["-q", "-F", "-b", "4096", "-I", "256", "-m", "0"])
        .args(["-O", "^has_journal,^resize_inode", "-E", "root_owner=0:0"])
        .args(["-N", &content.image_inodes().to_string(), "-U", uuid, "-d"])
        .args([dir, image]);
    wrap(mkfs)?.run().await?;
    check(image).await
}

/// Makes an empty, writable image of `bytes`, sparse, with a label.
///
/// Its inode tables count as zeroed, as a sparse file's are: a guest that mounts it has nothing to
/// initialize in the background, and the file grows by what is written only. No room is kept for the
/// descriptors of a larger filesystem, which alone would be 4 MiB: it is grown offline, by [`grow`].
pub(crate) async fn make_blank(image: &Path, bytes: u64, label: &str) -> Result<()> {
    let file = File::options().write(true).open(image).on("open", image)?;
    file.set_len(bytes).on("size", image)?;
    Tool::new("mkfs.ext4", PACKAGE, MKFS_DEADLINE)
        .args(["-q", "-F", "-b", "4096", "-m", "0", "-L", label])
        .args(["-O", "^resize_inode,sparse_super2", "-E", BLANK_OPTIONS])
        .arg(image)
        .run()
        .await?;
    Ok(())
}

/// Makes an image as small as it can be. The same content gives the same bytes.
pub(crate) async fn shrink(image: &Path) -> Result<()> {
    Tool::new("resize2fs", PACKAGE, MKFS_DEADLINE)
        .env(FAKE_TIME.0, FAKE_TIME.1)
        .arg("-M")
        .arg(image)
        .run()
        .await?;
    Ok(())
}

/// Reads an image from end to end and changes nothing.
///
/// # Errors
/// If anything in it is not as it must be.
pub(crate) async fn check(image: &Path) -> Result<()> {
    Tool::new("e2fsck", PACKAGE, FSCK_DEADLINE)
        .arg("-fn")
        .arg(image)
        .speaks_on_stdout()
        .remedy("unmount the filesystem if it is in use, then repair it: e2fsck -f")
        .run()
        .await?;
    Ok(())
}

/// Grows an unmounted image and its filesystem to `bytes`. What was written last by a guest that ended
/// at once is taken from the journal first.
///
/// # Errors
/// If the filesystem is broken, or there is no room. The image is then of no use.
pub(crate) async fn grow(image: &Path, bytes: u64) -> Result<()> {
    repair(image, &[]).await?;
    let file = File::options().write(true).open(image).on("open", image)?;
    file.set_len(bytes).on("size", image)?;
    Tool::new("resize2fs", PACKAGE, GROW_DEADLINE).arg(image).run().await?;
    Ok(())
}

/// Makes holes where an unmounted image has nothing.
///
/// # Errors
/// If the filesystem is broken.
pub(crate) async fn discard_free(image: &Path) -> Result<()> {
    repair(image, &["-E", "discard"]).await
}

/// Replays the journal and mends what `e2fsck` mends without asking; more than that is an error.
async fn repair(image: &Path, options: &[&str]) -> Result<()> {
    Tool::new("e2fsck", PACKAGE, FSCK_DEADLINE)
        .arg("-fp")
        .args(options)
        .arg(image)
        // Errors were corrected, or the journal was replayed: e2fsck(8), "EXIT CODE".
        .accept(1)
        .remedy("look at it with e2fsck -fn; a snapshot of the disk may be whole")
        .run()
        .await?;
    Ok(())
}

/// The UUID of an ext4 image.
///
/// # Errors
/// If the file is no ext4 image.
pub(crate) async fn uuid_of(image: &Path) -> Result<String> {
    let image = image.to_owned();
    blocking(move || read_uuid(&image)).await
}

fn read_uuid(image: &Path) -> Result<String> {
    let file = File::open(image).on("open", image)?;
    let (mut magic, mut uuid) = ([0; 2], [0; 16]);
    let read = file
        .read_exact_at(&mut magic, SUPER_MAGIC)
        .and_then(|()| file.read_exact_at(&mut uuid, SUPER_UUID));
    if read.is_err() || magic != MAGIC {
        let detail = "it has no ext4 superblock".to_owned();
        return Err(ImageError::RootfsUnusable { path: image.to_owned(), detail });
    }
    Ok(uuid::Uuid::from_bytes(uuid).hyphenated().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const UUID: &str = "6f2d1c3e-0000-4000-8000-0123456789ab";

    async fn image_of(dir: &Path, image: &Path) -> Content {
        let content = Content::of(dir).unwrap();
        make_from_dir(image, dir, content, UUID, Ok).await.unwrap();
        content
    }

    #[tokio::test]
    async fn an_image_of_a_directory_is_clean_and_found_by_its_uuid() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/hostname"), "vm").unwrap();
        symlink("etc/hostname", root.join("short")).unwrap();
        symlink("x".repeat(200), root.join("long")).unwrap();
        let image = dir.path().join("rootfs.ext4");
        let content = image_of(&root, &image).await;
        assert_eq!(content.inodes, 5);
        check(&image).await.unwrap();
        assert_eq!(uuid_of(&image).await.unwrap(), UUID);
        let read = Tool::new("debugfs", PACKAGE, FSCK_DEADLINE)
            .args(["-R", "cat /etc/hostname"])
            .arg(&image)
            .run();
        assert_eq!(read.await.unwrap(), "vm\n");
    }

    #[tokio::test]
    async fn many_small_files_and_full_directories_fit() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for n in 0..20 {
            let sub = root.join(format!("d{n}"));
            fs::create_dir_all(&sub).unwrap();
            for m in 0..200 {
                fs::write(sub.join(format!("{m}-{}", "n".repeat(200))), [1; 10]).unwrap();
            }
            fs::write(sub.join("large"), vec![1; 3 << 20]).unwrap();
        }
        image_of(&root, &dir.path().join("rootfs.ext4")).await;
    }

    #[tokio::test]
    async fn a_damaged_image_does_not_pass() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(&root).unwrap();
        let image = dir.path().join("rootfs.ext4");
        image_of(&root, &image).await;
        let file = File::options().write(true).open(&image).unwrap();
        file.write_all_at(&[0xff; 64], BLOCK_BYTES).unwrap(); // the group descriptors
        let error = check(&image).await.unwrap_err();
        assert!(error.to_string().contains("e2fsck -fn"), "{error}");
    }

    #[tokio::test]
    async fn what_is_no_ext4_image_is_refused() {
        for content in [vec![], vec![0; 4096]] {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), content).unwrap();
            let error = uuid_of(file.path()).await.unwrap_err();
            assert!(error.to_string().contains("no ext4 superblock"), "{error}");
        }
    }
}
