//! Where an image comes from, as people write it.

use oci_client::Reference;
use std::{fmt, path::PathBuf, str::FromStr};

/// Where an image comes from.
///
/// ```
/// use aetherium_image::ImageOrigin;
/// let origin: ImageOrigin = "oci:build/image:v1".parse()?;
/// assert_eq!(origin.to_string(), "oci:build/image:v1");
/// let origin: ImageOrigin = "alpine:3".parse()?;
/// assert_eq!(origin.to_string(), "docker.io/library/alpine:3");
/// # Ok::<(), aetherium_image::OriginInvalid>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageOrigin {
    /// `oci:DIR[:TAG]`: an OCI image layout.
    Layout {
        /// The directory with `oci-layout` and `index.json`.
        dir: PathBuf,
        /// Which of its images; needed where it has several.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]` or `docker-archive:FILE[:TAG]`: an image layout, or what `docker
    /// save` writes, in a tar file. What is in the file tells which.
    Archive {
        /// The file, packed or not.
        file: PathBuf,
        /// Which of its images; needed where it has several.
        tag: Option<String>,
    },
    /// `tar:FILE`: a root filesystem in a tar file, packed or not.
    Tarball(PathBuf),
    /// `dir:DIR`: a root filesystem in a directory.
    Directory(PathBuf),
    /// Anything else: an image of a registry.
    Registry(ImageReference),
}

/// The name of an image in a registry, with its tag or digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference(pub(super) Reference);

/// A text that says no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} names no image ({detail}); write oci:DIR, oci-archive:FILE, docker-archive:FILE, \
     tar:FILE, dir:DIR, or an image of a registry such as docker.io/library/alpine:3"
)]
pub struct OriginInvalid {
    text: String,
    detail: String,
}

impl FromStr for ImageOrigin {
    type Err = OriginInvalid;

    fn from_str(text: &str) -> Result<Self, OriginInvalid> {
        let invalid = |detail: String| OriginInvalid { text: text.to_owned(), detail };
        let (kind, rest) = text.split_once(':').unwrap_or(("", text));
        let tagged = || -> Result<(PathBuf, Option<String>), OriginInvalid> {
            let (path, tag) = match rest.split_once(':') {
                Some((path, tag)) => (path, Some(tag.to_owned())),
                None => (rest, None),
            };
            if path.is_empty() || tag.as_deref() == Some("") {
                return Err(invalid("the path or the tag is empty".to_owned()));
            }
            Ok((path.into(), tag))
        };
        Ok(match kind {
            "oci" => {
                let (dir, tag) = tagged()?;
                Self::Layout { dir, tag }
            }
            "oci-archive" | "docker-archive" => {
                let (file, tag) = tagged()?;
                Self::Archive { file, tag }
            }
            "tar" | "dir" if rest.is_empty() => {
                return Err(invalid("the path is empty".to_owned()));
            }
            "tar" => Self::Tarball(rest.into()),
            "dir" => Self::Directory(rest.into()),
            _ if text.starts_with(['/', '.']) => {
                return Err(invalid("a path needs its kind before it".to_owned()));
            }
            _ => {
                let text = text.strip_prefix("docker://").unwrap_or(text);
                Self::Registry(ImageReference(
                    text.parse()
                        .map_err(|error: oci_client::ParseError| invalid(error.to_string()))?,
                ))
            }
        })
    }
}

impl fmt::Display for ImageOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tagged = |f: &mut fmt::Formatter<'_>, kind, path: &PathBuf, tag: &Option<String>| {
            write!(f, "{kind}:{}", path.display())?;
            tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
        };
        match self {
            Self::Layout { dir, tag } => tagged(f, "oci", dir, tag),
            Self::Archive { file, tag } => tagged(f, "archive", file, tag),
            Self::Tarball(file) => write!(f, "tar:{}", file.display()),
            Self::Directory(dir) => write!(f, "dir:{}", dir.display()),
            Self::Registry(reference) => reference.fmt(f),
        }
    }
}

impl FromStr for ImageReference {
    type Err = OriginInvalid;

    fn from_str(text: &str) -> Result<Self, OriginInvalid> {
        match text.parse()? {
            ImageOrigin::Registry(reference) => Ok(reference),
            _ => Err(OriginInvalid {
                text: text.to_owned(),
                detail: "it is not in a registry".to_owned(),
            }),
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.whole())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_told_by_its_beginning() {
        let parse = |text: &str| text.parse::<ImageOrigin>();
        let tag = Some("v1".to_owned());
        assert_eq!(parse("oci:a/b"), Ok(ImageOrigin::Layout { dir: "a/b".into(), tag: None }));
        assert_eq!(parse("oci:a:v1"), Ok(ImageOrigin::Layout { dir: "a".into(), tag }));
        let repo_tag = Some("alpine:3".to_owned());
        let archive = ImageOrigin::Archive { file: "/a.tar".into(), tag: repo_tag };
        assert_eq!(parse("docker-archive:/a.tar:alpine:3"), Ok(archive));
        assert_eq!(parse("tar:r:x.tar"), Ok(ImageOrigin::Tarball("r:x.tar".into())));
        assert_eq!(parse("dir:/srv"), Ok(ImageOrigin::Directory("/srv".into())));
        let names = ["localhost:5000/a:b", "docker://ghcr.io/o/i@sha256:", "busybox"];
        assert_eq!(parse(names[0]).unwrap().to_string(), "localhost:5000/a:b");
        assert!(parse(names[1]).is_err());
        assert_eq!(parse(names[2]).unwrap().to_string(), "docker.io/library/busybox:latest");
    }

    #[test]
    fn a_reference_is_of_a_registry_and_of_nothing_else() {
        let reference: ImageReference = "localhost:5000/a:b".parse().unwrap();
        assert_eq!(reference.to_string(), "localhost:5000/a:b");
        assert!("oci:a:b".parse::<ImageReference>().is_err());
    }

    #[test]
    fn what_names_nothing_is_refused_with_the_forms_there_are() {
        for text in ["", "oci:", "oci::v1", "oci:a:", "tar:", "dir:", "/srv/root", "./x", "UPPER"] {
            let error = text.parse::<ImageOrigin>().unwrap_err().to_string();
            assert!(error.contains("oci:DIR") && error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
