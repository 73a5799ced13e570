//! What a kernel's build needs of this host, looked for before anything is downloaded or unpacked.

use crate::{
    command::{self, Tool},
    error::{ImageError, Result},
};
use std::time::Duration;

/// Reading one header.
const LOOK_DEADLINE: Duration = Duration::from_secs(60);

/// A program or a header, and the package that has it in Debian and Ubuntu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Needed {
    what: &'static str,
    package: &'static str,
}

const fn needed(what: &'static str, package: &'static str) -> Needed {
    Needed { what, package }
}

/// `Documentation/process/changes.rst` of Linux, without what modules and documentation take.
const PROGRAMS: [Needed; 9] = [
    needed("make", "make"),
    needed("gcc", "gcc"),
    needed("ld", "binutils"),
    needed("flex", "flex"),
    needed("bison", "bison"),
    needed("bc", "bc"),
    needed("perl", "perl"),
    needed("tar", "tar"),
    needed("gzip", "gzip"),
];
/// Of `objtool`, a program that the build makes for itself, and of the C library.
const HEADERS: [Needed; 2] = [needed("stdio.h", "libc6-dev"), needed("libelf.h", "libelf-dev")];

/// Checks that a kernel can be built here.
///
/// # Errors
/// [`ImageError::BuildToolsMissing`], which names all that is missing.
pub(super) async fn require() -> Result<()> {
    let found = |it: &Needed| command::find(it.what, it.package).is_ok();
    let mut missing: Vec<_> = PROGRAMS.into_iter().filter(|it| !found(it)).collect();
    // Without the compiler nobody knows where headers are.
    let compiles = !missing.iter().any(|it| it.what == "gcc");
    for header in HEADERS {
        if compiles && !has_header(header.what).await? {
            missing.push(header);
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(told(&missing)) }
}

fn told(missing: &[Needed]) -> ImageError {
    ImageError::BuildToolsMissing {
        missing: missing.iter().map(|it| it.what).collect(),
        packages: missing.iter().map(|it| it.package).collect(),
    }
}

async fn has_header(header: &str) -> Result<bool> {
    let compiled = Tool::new("gcc", "gcc", LOOK_DEADLINE)
        .args(["-x", "c", "-fsyntax-only", "-include", header, "/dev/null"])
        .run();
    match compiled.await {
        Ok(_) => Ok(true),
        Err(ImageError::CommandFailed { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_named_with_what_to_install() {
        let error = told(&[needed("flex", "flex"), needed("libelf.h", "libelf-dev")]);
        assert_eq!(error.to_string(), "a kernel cannot be built here: flex, libelf.h are missing");
        assert_eq!(error.remedy(), "as root: apt-get install flex libelf-dev");
    }

    #[tokio::test]
    async fn a_header_is_there_or_not() {
        assert!(has_header("stdio.h").await.unwrap());
        assert!(!has_header("no-such-header.h").await.unwrap());
    }
}
