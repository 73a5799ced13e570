//! Paths inside an image's tree.

use super::Problem;
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

/// What Linux takes: `PATH_MAX` without its zero byte, and `NAME_MAX` (limits.h).
const MAX_PATH_BYTES: usize = 4095;
const MAX_NAME_BYTES: usize = 255;

/// A path below the root of a tree: relative, without `.`, `..` and empty parts. The empty path is
/// the root. Bytes, not text: a file's name may be any.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TreePath(PathBuf);

impl TreePath {
    /// Reads a name as archives have it. A leading `/` means the tree's root, as for `tar`.
    pub(crate) fn parse(name: &[u8]) -> Result<Self, Problem> {
        if name.contains(&0) {
            return Err(Problem::ZeroByte);
        }
        let parts = || name.split(|byte| *byte == b'/').filter(|it| !it.is_empty() && *it != b".");
        if parts().any(|part| part == b"..") {
            return Err(Problem::Climbs);
        }
        let longest = parts().map(<[u8]>::len).max().unwrap_or(0);
        if name.len() > MAX_PATH_BYTES || longest > MAX_NAME_BYTES {
            return Err(Problem::NameTooLong { bytes: name.len(), longest });
        }
        Ok(Self(parts().map(OsStr::from_bytes).collect()))
    }

    /// The directory it is in and its name there; none for the root.
    pub(crate) fn split(&self) -> Option<(&Path, &OsStr)> {
        Some((self.0.parent()?, self.0.file_name()?))
    }

    /// The same directory's entry of another name.
    pub(super) fn sibling(&self, name: &[u8]) -> Self {
        Self(self.0.with_file_name(OsString::from_vec(name.to_owned())))
    }

    /// The directory it is in; the root is in itself.
    pub(super) fn parent(&self) -> Self {
        Self(self.0.parent().map(Path::to_owned).unwrap_or_default())
    }

    pub(crate) fn as_path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str) -> PathBuf {
        TreePath::parse(name.as_bytes()).unwrap().0
    }

    #[test]
    fn a_name_is_taken_from_the_root_of_the_tree_however_it_begins() {
        for name in ["etc/passwd", "./etc/passwd", "/etc/passwd", "//etc/.//passwd/"] {
            assert_eq!(parsed(name), Path::new("etc/passwd"), "{name}");
        }
        for root in ["", ".", "./", "/"] {
            assert_eq!(TreePath::parse(root.as_bytes()).unwrap().split(), None, "{root}");
        }
    }

    #[test]
    fn a_name_that_climbs_or_that_linux_cannot_take_is_refused() {
        for name in ["..", "../x", "a/../../x", "a/.."] {
            assert!(matches!(TreePath::parse(name.as_bytes()), Err(Problem::Climbs)), "{name}");
        }
        assert!(matches!(TreePath::parse(b"a\0b"), Err(Problem::ZeroByte)));
        let long = ["x".repeat(256), "ab/".repeat(1400)];
        for name in long {
            let refused = TreePath::parse(name.as_bytes());
            assert!(matches!(refused, Err(Problem::NameTooLong { .. })), "{refused:?}");
        }
        assert_eq!(parsed("a..b/...").as_os_str(), "a..b/...");
    }

    #[test]
    fn a_name_need_not_be_text() {
        let path = TreePath::parse(b"caf\xe9").unwrap();
        assert_eq!(path.as_path().as_os_str().as_bytes(), b"caf\xe9");
    }
}
