//! Copies disk images without filling their holes, and shares their blocks where that is possible.

use crate::error::{OnPath, Result, blocking};
use rustix::{
    fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek},
    io::Errno,
};
use std::{fs::File, io, path::Path};

/// Makes a new file at `to`, for its owner alone, as a copy of a disk image.
///
/// # Errors
/// One of the files cannot be opened, or not copied.
pub async fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let (from, to) = (from.to_owned(), to.to_owned());
    blocking(move || {
        let mut options = File::options();
        let target = options.write(true).create(true).truncate(true).mode(0o600).open(&to);
        copy(&from, &target.on("create", &to)?)
    })
    .await
}

/// Writes over `to` what `from` has data for; where `from` has a hole, `to` stays as it is.
///
/// # Errors
/// One of the files cannot be opened, or not copied.
pub async fn lay_over(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (from.to_owned(), to.to_owned());
    blocking(move || {
        let source = File::open(&from).on("open", &from)?;
        let target = File::options().write(true).open(&to).on("open", &to)?;
        copy_data(&source, &target).on("copy", &from)
    })
    .await
}

/// Makes `to`, an empty file, a copy of `from`. Where the filesystem can, both share their blocks
/// until one is written to; elsewhere only the data is copied, and holes stay holes.
pub(crate) fn copy(from: &Path, to: &File) -> Result<()> {
    let source = File::open(from).on("open", from)?;
    if ioctl_ficlone(to, &source).is_ok() {
        return Ok(());
    }
    copy_data(&source, to).on("copy", from)
}

fn copy_data(from: &File, to: &File) -> io::Result<()> {
    let size = from.metadata()?.len();
    to.set_len(size)?;
    let mut at = 0;
    while at < size {
        let start = match seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(()), // only a hole is left
            Err(errno) => return Err(errno.into()),
        };
        at = seek(from, SeekFrom::Hole(start))?;
        copy_range(from, to, start, at)?;
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let wanted = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), wanted) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            // Two filesystems, or one that cannot do it.
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                return copy_bytes(from, to, read_at, end);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn copy_bytes(mut from: &File, mut to: &File, start: u64, end: u64) -> io::Result<()> {
    seek(from, SeekFrom::Start(start))?;
    seek(to, SeekFrom::Start(start))?;
    let mut part = io::Read::take(&mut from, end - start);
    if io::copy(&mut part, &mut to)? == end - start {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{FileExt, MetadataExt},
    };

    const SIZE: u64 = 64 << 20;

    fn sparse_file(dir: &Path) -> std::path::PathBuf {
        let path = dir.join("source");
        let file = File::create(&path).unwrap();
        file.set_len(SIZE).unwrap();
        file.write_all_at(b"first", 0).unwrap();
        file.write_all_at(&[7; 100_000], 10 << 20).unwrap();
        file.write_all_at(b"last", SIZE - 4).unwrap();
        path
    }

    #[test]
    fn a_copy_has_the_same_content_and_its_holes() {
        let dir = tempfile::tempdir().unwrap();
        let source = sparse_file(dir.path());
        type Way = fn(&Path, &File);
        let ways: [(&str, Way); 3] = [
            ("copy", |from, to| copy(from, to).unwrap()),
            ("copy_data", |from, to| copy_data(&File::open(from).unwrap(), to).unwrap()),
            ("copy_bytes", |from, to| {
                to.set_len(SIZE).unwrap();
                let from = File::open(from).unwrap();
                for (start, end) in [(0, 4096), (10 << 20, 11 << 20), (SIZE - 4096, SIZE)] {
                    copy_bytes(&from, to, start, end).unwrap();
                }
            }),
        ];
        for (name, way) in ways {
            let dest = dir.path().join(name);
            way(&source, &File::create(&dest).unwrap());
            assert!(fs::read(&dest).unwrap() == fs::read(&source).unwrap(), "{name}");
            let used = fs::metadata(&dest).unwrap().blocks() * 512;
            assert!(used < 4 << 20, "{name} uses {used} of {SIZE} bytes");
        }
    }

    #[tokio::test]
    async fn what_is_laid_over_a_file_changes_it_where_there_is_data_even_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let (below, above) = (sparse_file(dir.path()), dir.path().join("above"));
        let file = File::create(&above).unwrap();
        file.set_len(SIZE).unwrap();
        file.write_all_at(&[0; 4096], 0).unwrap();
        file.write_all_at(&[9; 4096], 20 << 20).unwrap();
        let mut expected = fs::read(&below).unwrap();
        expected[..4096].fill(0);
        expected[20 << 20..(20 << 20) + 4096].fill(9);
        lay_over(&above, &below).await.unwrap();
        assert!(fs::read(&below).unwrap() == expected);
    }

    #[test]
    fn a_file_that_is_all_hole_or_empty_is_copied_too() {
        let dir = tempfile::tempdir().unwrap();
        for size in [0, SIZE] {
            let (source, dest) = (dir.path().join("s"), dir.path().join("d"));
            File::create(&source).unwrap().set_len(size).unwrap();
            copy_data(&File::open(&source).unwrap(), &File::create(&dest).unwrap()).unwrap();
            let made = fs::metadata(&dest).unwrap();
            assert_eq!((made.len(), made.blocks()), (size, 0));
        }
    }
}
