//! Layers made here, good and hostile, laid into a directory that has something precious beside it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod forms;
mod hostile;
mod stacking;

use super::*;
use crate::error::ImageError;
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};
use tar::{EntryType, Header};
use tempfile::TempDir;

/// A layer being made. Names are written as they are given, however bad.
pub(super) struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub(super) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(super) fn entry(mut self, kind: EntryType, name: &str, link: &str, content: &[u8]) -> Self {
        let mut header = header(kind, name.as_bytes(), content.len() as u64);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub(super) fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name, "", content.as_bytes())
    }

    pub(super) fn dir(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", b"")
    }

    pub(super) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, b"")
    }

    pub(super) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, b"")
    }

    /// PAX records for the entry that follows.
    pub(super) fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub(super) fn header(mut self, header: &Header, content: &[u8]) -> Self {
        self.0.append(header, content).unwrap();
        self
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub(super) fn header(kind: EntryType, name: &[u8], size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(size);
    header.set_cksum();
    header
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

/// A tree with something beside it that no layer may reach.
pub(super) struct Laid {
    pub(super) dir: TempDir,
    pub(super) tree: Tree,
    pub(super) devices: u64,
}

impl Laid {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "precious").unwrap();
        let tree = Tree::in_dir(&dir.path().join("root")).unwrap();
        Self { dir, tree, devices: 0 }
    }

    pub(super) fn lay_within(&mut self, layer: &[u8], limits: Limits) -> crate::error::Result<()> {
        let named = Layer { name: "1 of 1".into(), ..Layer::default() };
        self.devices += apply(&mut self.tree, &named, layer, &mut Budget::new(limits))?;
        Ok(())
    }

    pub(super) fn lay(&mut self, layer: Tar) -> crate::error::Result<()> {
        self.lay_within(&layer.bytes(), Limits::default())
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    pub(super) fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    pub(super) fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// Whether there is something, be it a link that leads nowhere.
    pub(super) fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    pub(super) fn assert_outside_is_untouched(&self) {
        let names: Vec<_> =
            fs::read_dir(self.outside()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(fs::read_to_string(self.outside().join("secret")).unwrap(), "precious");
        let above: Vec<_> =
            fs::read_dir(self.dir.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(above.len(), 2, "{above:?}");
    }
}

/// Lays layers that are all good.
pub(super) fn laid(layers: impl IntoIterator<Item = Tar>) -> Laid {
    let mut laid = Laid::new();
    for layer in layers {
        laid.lay(layer).unwrap();
    }
    laid.assert_outside_is_untouched();
    laid
}

/// Lays one layer that must be refused: for which entry, and why.
pub(super) fn refused(layer: Tar) -> (String, Problem) {
    refused_within(&layer.bytes(), Limits::default())
}

pub(super) fn refused_within(layer: &[u8], limits: Limits) -> (String, Problem) {
    let mut laid = Laid::new();
    let error = laid.lay_within(layer, limits).unwrap_err();
    laid.assert_outside_is_untouched();
    let text = error.to_string();
    let ImageError::LayerRefused { layer, entry, problem } = error else { panic!("{error}") };
    assert_eq!(layer, "1 of 1");
    assert!(
        text.starts_with("layer 1 of 1")
            && (entry.is_empty() || text.contains(&format!("{entry:?}"))),
        "{text}"
    );
    (entry, problem)
}

pub(super) fn inode(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    fs::symlink_metadata(path).unwrap().ino()
}
