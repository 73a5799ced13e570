//! Disks grow, shrink on the host and go out whole.

use super::*;
use crate::{BlankDisks, command::Tool};
use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, process::Command, time::Duration};

const MIB: u64 = 1 << 20;

fn size(mib: u32) -> DiskMib {
    DiskMib::try_from(mib).unwrap()
}

async fn disk(dir: &Path, mib: u32) -> PathBuf {
    let disk = dir.join("disk.ext4");
    let blanks = BlankDisks::open(dir.join("blanks")).unwrap();
    blanks.clone_to(&disk, size(mib)).await.unwrap();
    disk
}

/// Has `debugfs` change the disk, as a guest would.
async fn change(disk: &Path, command: &str) {
    let tool = Tool::new("debugfs", "e2fsprogs", Duration::from_secs(60));
    tool.args(["-w", "-R", command]).arg(disk).run().await.unwrap();
}

async fn read(disk: &Path, file: &str) -> String {
    let tool = Tool::new("debugfs", "e2fsprogs", Duration::from_secs(60));
    tool.args(["-R", &format!("cat {file}")]).arg(disk).run().await.unwrap()
}

async fn blocks_of(disk: &Path) -> u64 {
    let tool = Tool::new("dumpe2fs", "e2fsprogs", Duration::from_secs(60)).arg("-h").arg(disk);
    let said = tool.run().await.unwrap();
    let line = said.lines().find_map(|line| line.strip_prefix("Block count:")).unwrap();
    line.trim().parse().unwrap()
}

fn used(disk: &Path) -> u64 {
    fs::metadata(disk).unwrap().blocks() * 512
}

#[tokio::test]
async fn a_grown_disk_keeps_its_files_and_is_clean() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), 64).await;
    fs::write(dir.path().join("file"), "kept\n").unwrap();
    change(&disk, &format!("write {} file", dir.path().join("file").display())).await;
    let copy = DiskCopy::beside(&disk).await.unwrap();
    copy.fill(&disk).await.unwrap();
    copy.grow(size(10_240)).await.unwrap();
    assert_eq!(
        blocks_of(&disk).await,
        64 * MIB / 4096,
        "the disk itself waits for its replacement"
    );
    copy.replace(&disk).await.unwrap();
    ext4::check(&disk).await.unwrap();
    assert_eq!(blocks_of(&disk).await, 10_240 * MIB / 4096);
    assert_eq!(fs::metadata(&disk).unwrap().len(), 10_240 * MIB);
    assert_eq!(read(&disk, "file").await, "kept\n");
    assert!(used(&disk) < 8 * MIB, "{} bytes are used", used(&disk));
}

#[tokio::test]
async fn a_copy_that_was_given_up_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), 16).await;
    let before = fs::read_dir(dir.path()).unwrap().count();
    let copy = DiskCopy::beside(&disk).await.unwrap();
    copy.fill(&disk).await.unwrap();
    drop(copy);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before);
}

#[tokio::test]
async fn a_name_that_is_taken_is_not_taken_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), 16).await;
    let place = dir.path().join("snapshot");
    fs::write(&place, "precious").unwrap();
    let copy = DiskCopy::beside(&place).await.unwrap();
    copy.fill(&disk).await.unwrap();
    copy.keep(&place).await.unwrap_err();
    assert_eq!(fs::read_to_string(&place).unwrap(), "precious");
}

#[tokio::test]
async fn what_a_removed_file_took_goes_back_to_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), 256).await;
    let blank = used(&disk);
    fs::write(dir.path().join("noise"), vec![7; 100 << 20]).unwrap();
    change(&disk, &format!("write {} noise", dir.path().join("noise").display())).await;
    change(&disk, "rm noise").await;
    assert!(used(&disk) > 100 * MIB, "{} bytes are used", used(&disk));
    reclaim(&disk).await.unwrap();
    assert!(used(&disk) < blank + MIB, "{} bytes are still used", used(&disk));
    ext4::check(&disk).await.unwrap();
}

#[tokio::test]
async fn a_broken_disk_is_neither_grown_nor_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), 64).await;
    let file = File::options().write(true).open(&disk).unwrap();
    file.write_all_at(&[0xff; 65536], 0).unwrap();
    let before = fs::read(&disk).unwrap();
    let error = reclaim(&disk).await.unwrap_err();
    assert!(error.to_string().contains("e2fsck"), "{error}");
    let copy = DiskCopy::beside(&disk).await.unwrap();
    copy.fill(&disk).await.unwrap();
    copy.grow(size(128)).await.unwrap_err();
    assert!(fs::read(&disk).unwrap() == before);
}

#[tokio::test]
async fn tar_makes_the_disk_of_its_archive_with_its_holes() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), 256).await;
    fs::write(dir.path().join("file"), vec![5; 300_001]).unwrap();
    change(&disk, &format!("write {} file", dir.path().join("file").display())).await;
    let copy = DiskCopy::beside(&disk).await.unwrap();
    copy.fill(&disk).await.unwrap();
    let archive = copy.into_archive("disk.ext4").await.unwrap();
    let mut bytes = Vec::new();
    archive.write_to(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, archive.bytes());
    assert!(bytes.len() < 8 << 20, "{} bytes", bytes.len());

    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(dir.path().join("disk.tar"), bytes).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(dir.path().join("disk.tar")).arg("-C").arg(&out);
    assert!(tar.status().unwrap().success());
    assert!(fs::read(out.join("disk.ext4")).unwrap() == fs::read(&disk).unwrap());
    assert!(used(&out.join("disk.ext4")) < 8 * MIB);
}
