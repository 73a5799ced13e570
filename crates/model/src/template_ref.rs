//! How a template is named: `name` or `name:tag`, which may come to mean another one, and
//! `name@sha256:…`, which never does.

use crate::name::Name;
use std::{fmt, str::FromStr};

const SHA256: &str = "sha256:";

/// The SHA-256 of some content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no sha256 digest, the only kind that is read")]
pub struct InvalidDigest(String);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let hash = <sha2::Sha256 as sha2::Digest>::digest(bytes);
        Self(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// A digest from its 64 hexadecimal digits.
    ///
    /// # Errors
    /// Something else than 64 of 0-9 and a-f.
    pub fn from_hex(hex: &str) -> Result<Self, InvalidDigest> {
        let valid =
            hex.len() == 64 && hex.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
        if valid { Ok(Self(hex.to_owned())) } else { Err(invalid(hex)) }
    }

    /// The 64 hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.0
    }

    /// The first twelve of them: enough for people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

fn invalid(text: &str) -> InvalidDigest {
    InvalidDigest(text.chars().take(80).collect())
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let hex = text.strip_prefix(SHA256).ok_or_else(|| invalid(text))?;
        Self::from_hex(hex).map_err(|_| invalid(text))
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SHA256}{}", self.0)
    }
}

/// Which of the templates of a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// What this tag points to now.
    Tag(Name),
    /// This one, for good.
    Digest(Digest),
}

/// A template, as people and files name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TemplateRef {
    /// Its name.
    pub name: Name,
    /// Which one of that name.
    pub version: Version,
}

/// Why a text names no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no template: write NAME, NAME:TAG or NAME@sha256:DIGEST ({detail})")]
pub struct InvalidTemplateRef {
    text: String,
    detail: String,
}

/// The tag of a name without one.
pub const DEFAULT_TAG: &str = "latest";

impl TemplateRef {
    /// What the default tag of a name points to.
    pub fn latest(name: Name) -> Self {
        #[expect(clippy::expect_used, reason = "a constant, and a test below parses it")]
        let tag = DEFAULT_TAG.parse().expect("the default tag is a name");
        Self::tagged(name, tag)
    }

    /// What a tag points to.
    pub const fn tagged(name: Name, tag: Name) -> Self {
        Self { name, version: Version::Tag(tag) }
    }

    /// Of the templates there are, those that could have been meant: of the same name where there are
    /// any, else all.
    #[must_use]
    pub fn resembled(&self, all: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let all: Vec<Self> = all.into_iter().collect();
        let of_name: Vec<Self> = all.iter().filter(|it| it.name == self.name).cloned().collect();
        if of_name.is_empty() { all } else { of_name }
    }

    /// This very one.
    pub const fn pinned(name: Name, digest: Digest) -> Self {
        Self { name, version: Version::Digest(digest) }
    }
}

impl From<&Name> for TemplateRef {
    fn from(name: &Name) -> Self {
        Self::latest(name.clone())
    }
}

impl From<&Self> for TemplateRef {
    fn from(it: &Self) -> Self {
        it.clone()
    }
}

impl FromStr for TemplateRef {
    type Err = InvalidTemplateRef;

    fn from_str(text: &str) -> Result<Self, InvalidTemplateRef> {
        let because =
            |detail: String| InvalidTemplateRef { text: text.chars().take(160).collect(), detail };
        let name = |text: &str| text.parse::<Name>().map_err(|error| because(error.to_string()));
        if let Some((before, digest)) = text.split_once('@') {
            let digest: Digest =
                digest.parse().map_err(|error: InvalidDigest| because(error.to_string()))?;
            return Ok(Self::pinned(name(before)?, digest));
        }
        match text.split_once(':') {
            Some((before, tag)) => Ok(Self::tagged(name(before)?, name(tag)?)),
            None => Ok(Self::latest(name(text)?)),
        }
    }
}

impl fmt::Display for TemplateRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) if tag.as_str() == DEFAULT_TAG => self.name.fmt(f),
            Version::Tag(tag) => write!(f, "{}:{tag}", self.name),
            Version::Digest(digest) => write!(f, "{}@{digest}", self.name),
        }
    }
}

macro_rules! as_text {
    ($($type:ident),+) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

as_text!(Digest, TemplateRef);

macro_rules! text_schema {
    ($type:ident, $example:expr, $description:expr) => {
        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .description(Some($description))
                    .examples([serde_json::json!($example)])
                    .into()
            }
        }

        impl utoipa::ToSchema for $type {}
    };
}

text_schema!(
    Digest,
    format!("{SHA256}{}", "0f".repeat(32)),
    "The SHA-256 of some content, as `sha256:` and 64 hexadecimal digits."
);
text_schema!(
    TemplateRef,
    "python:3.12",
    "A template: `NAME` for what its tag `latest` points to, `NAME:TAG`, or `NAME@sha256:DIGEST`, which \
     never comes to mean another one."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_a_tag_and_a_digest_are_told_apart_and_written_as_they_were_read() {
        let digest = "a".repeat(64);
        for text in ["base", "base:v1.2", &format!("base@sha256:{digest}")] {
            assert_eq!(text.parse::<TemplateRef>().unwrap().to_string(), text);
        }
        let name: Name = "base".parse().unwrap();
        let latest = TemplateRef::latest(name.clone());
        assert_eq!("base:latest".parse::<TemplateRef>().unwrap(), latest);
        assert_eq!(TemplateRef::from(&name), latest);
        assert_eq!(latest.to_string(), "base");
    }

    #[test]
    fn what_could_leave_its_directory_names_nothing() {
        let escape = format!("a@sha256:../{}", "a".repeat(61));
        let upper = format!("a@sha256:{}", "A".repeat(64));
        for bad in
            ["", ":v1", "a:", "a:b:c", "../a", "a:../b", "a@", "a@sha256:ab", &escape, &upper]
        {
            let error = bad.parse::<TemplateRef>().unwrap_err().to_string();
            assert!(error.contains("NAME:TAG") && error.contains(&format!("{bad:?}")), "{error}");
        }
    }
}
