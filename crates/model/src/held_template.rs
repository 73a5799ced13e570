//! What a worker tells of one template that it holds: how it is named there, and which one that is.
//!
//! As text, so that rows of earlier versions, which had names alone, are read like those of today:
//! `name:tag@sha256:…`, `name@sha256:…` for one that no tag points to, and `name` from a worker that
//! does not tell digests yet.

use crate::{
    name::Name,
    template_ref::{Digest, InvalidTemplateRef, TemplateRef, Version},
};
use std::{fmt, str::FromStr};

/// One template of a worker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeldTemplate {
    name: TemplateRef,
    digest: Option<Digest>,
}

impl HeldTemplate {
    /// One that a tag points to.
    pub const fn tagged(name: Name, tag: Name, digest: Digest) -> Self {
        Self { name: TemplateRef::tagged(name, tag), digest: Some(digest) }
    }

    /// One that no tag points to: it is kept for who still uses it.
    pub fn untagged(name: Name, digest: Digest) -> Self {
        Self { name: TemplateRef::pinned(name, digest.clone()), digest: Some(digest) }
    }

    /// How to ask for it: by its tag, or by its digest where no tag points to it.
    pub const fn name(&self) -> &TemplateRef {
        &self.name
    }

    /// Which one it is; absent where the worker does not tell.
    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Whether it is what is asked for: a tag by its name, a digest by itself, whatever name it has
    /// beside it.
    pub fn answers(&self, wanted: &TemplateRef) -> bool {
        match &wanted.version {
            Version::Tag(_) => self.name == *wanted,
            Version::Digest(digest) => self.digest.as_ref() == Some(digest),
        }
    }
}

impl FromStr for HeldTemplate {
    type Err = InvalidTemplateRef;

    fn from_str(text: &str) -> Result<Self, InvalidTemplateRef> {
        let tagged = text.split_once('@').filter(|(name, _)| name.contains(':'));
        let Some((name, digest)) = tagged else {
            let name: TemplateRef = text.parse()?;
            let digest = match &name.version {
                Version::Digest(digest) => Some(digest.clone()),
                Version::Tag(_) => None,
            };
            return Ok(Self { name, digest });
        };
        let name: TemplateRef = name.parse()?;
        let pinned: TemplateRef = format!("{}@{digest}", name.name).parse()?;
        match pinned.version {
            Version::Digest(digest) => Ok(Self { name, digest: Some(digest) }),
            Version::Tag(_) => Ok(Self { name, digest: None }),
        }
    }
}

impl fmt::Display for HeldTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name.version, &self.digest) {
            (Version::Tag(tag), Some(digest)) => write!(f, "{}:{tag}@{digest}", self.name.name),
            _ => self.name.fmt(f),
        }
    }
}

impl serde::Serialize for HeldTemplate {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for HeldTemplate {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl utoipa::PartialSchema for HeldTemplate {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some(
                "A template that a worker holds: `name:tag@sha256:…`, or `name@sha256:…` where no \
                 tag points to it.",
            ))
            .into()
    }
}

impl utoipa::ToSchema for HeldTemplate {}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(text: &str) -> HeldTemplate {
        text.parse().unwrap()
    }

    fn wanted(text: &str) -> TemplateRef {
        text.parse().unwrap()
    }

    #[test]
    fn a_held_template_is_written_as_it_was_read() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for text in [format!("base:latest@{digest}"), format!("base@{digest}"), "base".to_owned()] {
            assert_eq!(held(&text).to_string(), text);
        }
        let name = || "base".parse().unwrap();
        let parsed: Digest = digest.parse().unwrap();
        assert_eq!(
            held(&format!("base:v1@{digest}")),
            HeldTemplate::tagged(name(), "v1".parse().unwrap(), parsed.clone())
        );
        assert_eq!(held(&format!("base@{digest}")), HeldTemplate::untagged(name(), parsed));
        assert!("base:v1@sha256:short".parse::<HeldTemplate>().is_err());
    }

    #[test]
    fn a_tag_is_answered_by_its_name_and_a_digest_by_itself() {
        let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let new = held(&format!("base:latest@{}", digest("a")));
        let old = held(&format!("base@{}", digest("b")));
        for (asked, by_new, by_old) in [
            ("base".to_owned(), true, false),
            ("base:latest".to_owned(), true, false),
            ("base:v1".to_owned(), false, false),
            ("other".to_owned(), false, false),
            (format!("base@{}", digest("a")), true, false),
            (format!("base@{}", digest("b")), false, true),
        ] {
            let asked = wanted(&asked);
            assert_eq!((new.answers(&asked), old.answers(&asked)), (by_new, by_old), "{asked}");
        }
        // From a worker of an earlier version: what its name means is known, its digest is not.
        let earlier = held("base");
        assert!(earlier.answers(&wanted("base")));
        assert!(!earlier.answers(&wanted(&format!("base@{}", digest("a")))));
    }
}
