//! Names that users give: short, printable, safe in paths, URLs and logs.

use std::{fmt, str::FromStr};

/// Why a string cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be a name: use 1 to 63 of a-z, A-Z, 0-9, '-', '_' and '.', starting with a letter or digit"
)]
pub struct InvalidName(String);

/// 1 to 63 letters, digits, `-`, `_` and `.`, starting with a letter or digit.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, utoipa::ToSchema,
)]
#[schema(value_type = String, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", example = "my-workspace")]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// The longest name, in characters (a DNS label's limit, so that names can be host names).
    pub const MAX_CHARS: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(given: &str) -> Result<Self, InvalidName> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let valid = (1..=Self::MAX_CHARS).contains(&given.len())
            && given.bytes().all(allowed)
            && given.as_bytes()[0].is_ascii_alphanumeric();
        if valid {
            Ok(Self(given.to_owned()))
        } else {
            Err(InvalidName(given.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for bad in ["", ".", "..", "../x", "a/b", "-rf", "a b", "ä", "a\n", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?} was accepted");
        }
        for good in ["a", "test-vm-comm", "Debian_12.1", &"x".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good:?} was refused");
        }
    }
}
