//! Whether kernel and initramfs of a template belong together.

use super::image;
use crate::{
    error::{OnPath, Result},
    store::InstalledTemplate,
};
use aetherium_model::finding::Finding;
use memchr::memmem;
use std::{collections::BTreeSet, fs};

/// What each module says of the kernel it was built for: `scripts/mod/modpost.c` of Linux.
const VERMAGIC: &[u8] = b"vermagic=";
/// The longest release (`__NEW_UTS_LEN` of Linux).
const MAX_RELEASE_BYTES: usize = 64;

/// Looks whether the image is the release that the manifest says, and the modules are that one's.
pub(crate) fn findings(template: &InstalledTemplate) -> Vec<Finding> {
    let release = &template.manifest.kernel.release;
    let remedy = format!("build template {} again, replacing it", template.manifest.name);
    let judge = |check: &str, why: &str, found: Result<BTreeSet<String>>| {
        let found = match found {
            Err(error) => return Finding::fail(check, error.to_string(), why, remedy.clone()),
            Ok(found) => found,
        };
        let others: Vec<&str> =
            found.iter().filter(|it| *it != release).map(String::as_str).collect();
        if others.is_empty() {
            Finding::ok(check, format!("all of {release}"), why)
        } else {
            let found = format!("{} instead of {release}", others.join(", "));
            Finding::fail(check, found, why, remedy.clone())
        }
    };
    let kernel = image::inspect(&template.kernel()).map(|it| [it.release].into());
    let initramfs = template.initramfs();
    let modules = fs::read(&initramfs).on("read", &initramfs).map(|it| releases(&it));
    vec![
        judge("template.kernel.release", "modules load into their own kernel alone", kernel),
        judge("template.initramfs.modules", "a module of another kernel does not load", modules),
    ]
}

/// The releases that the modules of an archive were built for; they are not packed in it.
fn releases(archive: &[u8]) -> BTreeSet<String> {
    memmem::find_iter(archive, VERMAGIC)
        .filter_map(|at| {
            let rest = &archive[at + VERMAGIC.len()..];
            let end =
                rest.iter().take(MAX_RELEASE_BYTES + 1).position(|b| matches!(b, b' ' | 0))?;
            // The agent, which is in the archive, too, may hold the word itself.
            let word = std::str::from_utf8(&rest[..end]).ok()?;
            word.starts_with(|first: char| first.is_ascii_digit()).then(|| word.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_releases_of_all_modules_are_found_and_nothing_else() {
        let archive = b"..vermagic=6.1.0 SMP mod_unload \0..vermagic=6.1.0 SMP\0 vermagic=%s\0 \
                        vermagic=6.12.1-x SMP";
        let expected = ["6.1.0".to_owned(), "6.12.1-x".to_owned()];
        assert_eq!(releases(archive), expected.into());
        assert_eq!(releases(b"an archive without modules"), BTreeSet::new());
    }
}
