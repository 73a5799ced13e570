//! The forms that archives come in, and what is kept of a file.

use super::*;
use std::{
    ffi::OsStr,
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _, fs::MetadataExt as _},
    process::Command,
};

fn lay_bytes(bytes: &[u8]) -> Laid {
    let mut laid = Laid::new();
    laid.lay_within(bytes, Limits::default()).unwrap();
    laid
}

#[test]
fn plain_gzip_and_zstd_layers_are_read_in_any_number_of_members() {
    let bytes = Tar::new().file("a", &"content ".repeat(50_000)).bytes();
    let zstd = |bytes: &[u8]| {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    };
    let (first, second) = bytes.split_at(1000);
    let forms = [
        bytes.clone(),
        gzip(&bytes),
        [gzip(first), gzip(second)].concat(),
        zstd(&bytes),
        [zstd(first), zstd(second)].concat(),
    ];
    for (n, form) in forms.iter().enumerate() {
        assert_eq!(lay_bytes(form).text("a").len(), 400_000, "form {n}");
    }
}

#[test]
fn long_names_and_long_links_of_both_kinds_are_whole() {
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(150));
    let pax: &[(&str, &[u8])] = &[("path", long.as_bytes())];
    let gnu = |kind| Tar::new().entry(kind, "././@LongLink", "", format!("{long}\0").as_bytes());
    let named = [Tar::new().pax(pax), gnu(EntryType::GNULongName)];
    for layer in named {
        assert_eq!(lay_bytes(&layer.file("short", "x").bytes()).text(&long), "x");
    }
    let pax: &[(&str, &[u8])] = &[("linkpath", long.as_bytes())];
    let linked = [Tar::new().pax(pax), gnu(EntryType::GNULongLink)];
    for layer in linked {
        let laid = lay_bytes(&layer.symlink("l", "short").bytes());
        assert_eq!(fs::read_link(laid.path("l")).unwrap(), Path::new(&long));
    }
}

#[test]
fn a_name_that_is_no_text_is_kept_byte_for_byte() {
    let laid = lay_bytes(&Tar::new().pax(&[("path", b"caf\xe9\n")]).file("x", "x").bytes());
    let name = OsStr::from_bytes(b"caf\xe9\n");
    assert_eq!(fs::read_to_string(laid.path("").join(name)).unwrap(), "x");
}

/// As `tar --sparse` writes them, which is on every Linux.
#[test]
fn sparse_files_of_all_forms_are_whole_and_stay_sparse() {
    let dir = tempfile::tempdir().unwrap();
    let source = fs::File::create(dir.path().join("disk")).unwrap();
    source.set_len(32 << 20).unwrap();
    for part in 0..40_u8 {
        source.write_all_at(&[part + 1; 3000], u64::from(part) * 700_000 + 8192).unwrap();
    }
    let expected = fs::read(dir.path().join("disk")).unwrap();
    let forms = [
        vec!["--format=gnu"],
        vec!["--format=pax", "--sparse-version=1.0"],
        vec!["--format=pax", "--sparse-version=0.1"],
    ];
    for form in forms {
        let archive = dir.path().join("archive");
        let made = Command::new("tar")
            .args(&form)
            .args(["--sparse", "--hole-detection=raw", "-cf"])
            .arg(&archive)
            .arg("-C")
            .arg(dir.path())
            .arg("disk")
            .status();
        assert!(made.unwrap().success());
        let bytes = fs::read(&archive).unwrap();
        assert!(bytes.len() < 4 << 20, "{form:?} is not sparse");
        let laid = lay_bytes(&bytes);
        assert!(fs::read(laid.path("disk")).unwrap() == expected, "{form:?}");
        let used = fs::metadata(laid.path("disk")).unwrap().blocks() * 512;
        assert!(used < 8 << 20, "{form:?} uses {used} bytes");
    }
}

#[test]
fn the_oldest_sparse_form_is_refused_by_name() {
    let records: &[(&str, &[u8])] = &[("GNU.sparse.numblocks", b"1"), ("GNU.sparse.size", b"9")];
    let (_, problem) = refused(Tar::new().pax(records).file("x", ""));
    assert!(matches!(problem, Problem::PaxSparse), "{problem}");
}

fn richly_described() -> Tar {
    let mut program = header(EntryType::Regular, b"bin/ping", 1);
    program.set_mode(0o4755);
    program.set_uid(70_000);
    program.set_gid(5);
    program.set_cksum();
    let mut closed = header(EntryType::Directory, b"closed/", 0);
    closed.set_mode(0o500);
    closed.set_uid(33);
    closed.set_cksum();
    // CAP_NET_RAW, with a newline among its bytes.
    let capability: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\x0a\0\0\0\0\0";
    Tar::new()
        .pax(&[
            ("mtime", b"1234567890.5"),
            ("SCHILY.xattr.user.note", b"two\nlines"),
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ])
        .header(&program, b"x")
        .header(&closed, b"")
        .file("closed/inside", "x")
        .entry(EntryType::Fifo, "pipe", "", b"")
        .symlink("link", "pipe")
}

#[test]
fn without_root_owners_and_modes_are_written_down_for_fakeroot() {
    let laid = laid([richly_described()]);
    let owners = laid.dir.path().join("owners");
    let (program, closed) = (laid.path("bin/ping"), laid.path("closed"));
    let (program_inode, closed_inode) = (inode(&program), inode(&closed));
    laid.tree.seal(Ownership::Recorded(&owners)).unwrap();
    let recorded = fs::read_to_string(owners).unwrap();
    let line = |inode: u64| {
        let mark = format!("ino={inode},");
        recorded.lines().find(|line| line.contains(&mark)).unwrap().split_once(&mark).unwrap().1
    };
    assert_eq!(line(program_inode), "mode=104755,uid=70000,gid=5,nlink=1,rdev=0");
    assert_eq!(line(closed_inode), "mode=40500,uid=33,gid=0,nlink=2,rdev=0");
    assert_eq!(recorded.lines().count(), 7, "{recorded}");
    let found = fs::metadata(&program).unwrap();
    assert_eq!(found.mode() & 0o7777, 0o600, "set-user-id is never on a file of the host's");
    assert_eq!((found.mtime(), found.mtime_nsec()), (1_234_567_890, 500_000_000));
}

#[test]
fn as_root_owners_modes_times_and_attributes_are_on_the_files() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: nothing to see");
        return;
    }
    let laid = laid([richly_described()]);
    let program = laid.path("bin/ping");
    assert_eq!(laid.tree.seal(Ownership::Real).unwrap(), 0);
    let found = fs::metadata(&program).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (70_000, 5, 0o4755));
    assert_eq!((found.mtime(), found.mtime_nsec()), (1_234_567_890, 500_000_000));
    let mut value = [0; 64];
    let length = rustix::fs::getxattr(&program, "user.note", &mut value).unwrap();
    assert_eq!(&value[..length], b"two\nlines");
    assert_eq!(rustix::fs::getxattr(&program, "security.capability", &mut value).unwrap(), 20);
    assert!(rustix::fs::getxattr(&program, "trusted.overlay.redirect", &mut value).is_err());
    let closed = fs::metadata(laid.dir.path().join("root/closed")).unwrap();
    assert_eq!((closed.uid(), closed.mode() & 0o7777), (33, 0o500));
    assert_eq!(closed.mtime(), 1_000_000_000, "what is made inside later does not change it");
}
