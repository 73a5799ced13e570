//! Where an archive's entries may lie and lead. Pure: names in, names or a refusal out.
//!
//! Together with an unpacker that passes through no link, these rules keep everything inside:
//! an entry's name only goes down, and a link only goes up first and then down, never higher than
//! the directory itself.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use aetherium_agent_proto::{Refusal, RefusalKind};

/// The place of an entry below the directory. Empty for the directory itself.
pub(super) fn place(name: &[u8]) -> Result<PathBuf, Refusal> {
    let outside = || {
        let name = String::from_utf8_lossy(name);
        let detail =
            format!("entry `{name}` would lie outside the directory; nothing of it is made");
        Refusal::new(RefusalKind::OutsideDirectory, detail)
    };
    if name.contains(&0) {
        return Err(Refusal::new(RefusalKind::BadArchive, "an entry's name holds a zero byte"));
    }
    let mut place = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(name)).components() {
        match component {
            Component::Normal(part) => place.push(part),
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                return Err(outside());
            }
        }
    }
    Ok(place)
}

/// Checks that a symbolic link at `place` leads to something inside.
pub(super) fn check_link(place: &Path, target: &[u8]) -> Result<(), Refusal> {
    let mut height = place.components().count().saturating_sub(1);
    let mut goes_down = false;
    for component in Path::new(OsStr::from_bytes(target)).components() {
        match component {
            Component::Normal(_) => goes_down = true,
            Component::CurDir => {}
            // Up again after a name: the name may be a link itself, and up from there is anywhere.
            Component::ParentDir if !goes_down && height > 0 => height -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                let (place, target) = (place.display(), String::from_utf8_lossy(target));
                let detail = format!(
                    "link `{place}` leads outside the directory, to `{target}`; take outward links \
                     if that is meant"
                );
                return Err(Refusal::new(RefusalKind::OutsideDirectory, detail));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_climb_or_begin_at_the_root_are_refused() {
        for name in ["/etc/passwd", "..", "../x", "a/../../x", "a/..", "./../x"] {
            let refusal = place(name.as_bytes()).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::OutsideDirectory, "{name}");
        }
        assert_eq!(place(b"a\0b").unwrap_err().kind, RefusalKind::BadArchive);
    }

    #[test]
    fn plain_names_keep_their_place() {
        for (name, expected) in [("./", ""), ("a", "a"), ("./a//b/", "a/b"), ("..a/b..", "..a/b..")]
        {
            assert_eq!(place(name.as_bytes()).unwrap(), Path::new(expected), "{name}");
        }
    }

    #[test]
    fn links_may_climb_as_high_as_the_directory_and_no_higher() {
        let leads = |place: &str, target: &str| check_link(Path::new(place), target.as_bytes());
        for (place, target) in [("a", "b"), ("a/b", "../c"), ("a/b/c", "../../d/e"), ("a", "./b")] {
            assert!(leads(place, target).is_ok(), "{place} -> {target}");
        }
        for (place, target) in
            [("a", "/etc"), ("a", ".."), ("a/b", "../../c"), ("a/b", "c/../d"), ("a", "")]
        {
            assert_eq!(leads(place, target).is_err(), !target.is_empty(), "{place} -> {target}");
        }
    }

    proptest! {
        #[test]
        fn whatever_an_entry_is_called_its_place_only_goes_down(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(place) = place(&name) {
                prop_assert!(place.components().all(|it| matches!(it, Component::Normal(_))));
            }
        }

        #[test]
        fn a_link_that_is_taken_never_leaves_by_its_own_words(
            place in "[a-c](/[a-c]){0,4}",
            target in "(\\.\\.|\\.|[a-c]|)(/(\\.\\.|\\.|[a-c]|)){0,6}",
        ) {
            if check_link(Path::new(&place), target.as_bytes()).is_ok() {
                let mut depth = place.matches('/').count() as i64;
                prop_assert!(!target.starts_with('/'));
                for part in target.split('/') {
                    depth += match part { ".." => -1, "." | "" => 0, _ => 1 };
                    prop_assert!(depth >= 0);
                }
            }
        }
    }
}
