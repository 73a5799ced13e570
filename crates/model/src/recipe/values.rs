//! The values of a recipe: each refuses what no guest could take, with the value.

use crate::limits::MAX_TIMEOUT;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use std::{fmt, ops::Deref};

/// The most entries of one list of a recipe.
const MAX_ENTRIES: usize = 256;

/// A list of a recipe: at most 256 entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<T>", bound(deserialize = "T: Deserialize<'de>"))]
pub struct Few<T>(Vec<T>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Few<T> {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> TryFrom<Vec<T>> for Few<T> {
    type Error = String;

    fn try_from(entries: Vec<T>) -> Result<Self, String> {
        match entries.len() {
            0..=MAX_ENTRIES => Ok(Self(entries)),
            many => Err(format!("has {many} entries; at most {MAX_ENTRIES}")),
        }
    }
}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident: $check:expr;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                match check(&text) {
                    Ok(()) => Ok(Self(text)),
                    Err(wanted) => Err(format!("{text:?} is not allowed: give {wanted}")),
                }
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                String::schema()
            }
        }

        impl utoipa::ToSchema for $name {}
    )+};
}

texts! {
    /// A package, as its manager names it.
    PackageName: |text| allowed(is_package(text), "a package's name, such as git or libc6=2.36-9");
    /// The name of an environment variable.
    EnvName: |text| allowed(
        !text.is_empty() && !text.contains(['=', '\0']),
        "a variable's name, such as LANG",
    );
    /// A user of the guest: a name or a number.
    UserName: |text| allowed(is_user(text), "a user's name or number, of 1 to 64 characters");
    /// Who owns a file: a user, or `user:group`.
    Owner: |text| allowed(
        text.split(':').count() <= 2 && text.split(':').all(is_user),
        "a user, or user:group, each by name or number",
    );
    /// An absolute path in the guest, without `..`.
    GuestPath: |text| allowed(
        text.starts_with('/') && !text.contains('\0') && text.split('/').all(|part| part != ".."),
        "an absolute path without ..",
    );
    /// Permission bits in octal, such as `0755`.
    OctalMode: |text| allowed(octal(text).is_some(), "permission bits in octal, such as \"0755\"");
    /// Bytes as base64 (RFC 4648, with padding).
    Base64: |text| allowed(STANDARD.decode(text).is_ok(), "base64 with padding, as of RFC 4648");
}

fn allowed(allowed: bool, wanted: &'static str) -> Result<(), &'static str> {
    if allowed { Ok(()) } else { Err(wanted) }
}

/// Nothing that a package manager could take for an option, or a shell for more than a word.
fn is_package(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || "+-._:=~@<>".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '@')
        && text.len() <= 128
        && text.chars().all(inside)
}

fn is_user(text: &str) -> bool {
    (1..=64).contains(&text.len()) && !text.contains(['\0', ':', '/'])
}

fn octal(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o7777 && !text.starts_with('+'))
}

impl Owner {
    /// The user.
    pub fn user(&self) -> &str {
        self.0.split_once(':').map_or(self.as_str(), |(user, _)| user)
    }

    /// The group, where one is named.
    pub fn group(&self) -> Option<&str> {
        self.0.split_once(':').map(|(_, group)| group)
    }
}

impl OctalMode {
    /// The bits.
    pub fn bits(&self) -> u32 {
        octal(&self.0).unwrap_or_default()
    }
}

impl Base64 {
    /// These bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(STANDARD.encode(bytes))
    }

    /// The bytes it stands for.
    pub fn bytes(&self) -> Vec<u8> {
        STANDARD.decode(&self.0).unwrap_or_default()
    }
}

/// A time in whole seconds, at most a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Seconds(u64);

impl Seconds {
    const MAX: u64 = MAX_TIMEOUT.as_secs();

    /// In milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0 * 1000
    }
}

impl TryFrom<u64> for Seconds {
    type Error = String;

    fn try_from(seconds: u64) -> Result<Self, String> {
        if (1..=Self::MAX).contains(&seconds) {
            Ok(Self(seconds))
        } else {
            Err(format!("{seconds} is not allowed: give 1 to {} seconds", Self::MAX))
        }
    }
}

impl From<Seconds> for u64 {
    fn from(seconds: Seconds) -> Self {
        seconds.0
    }
}

impl utoipa::PartialSchema for Seconds {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::Integer)
            .minimum(Some(1))
            .maximum(Some(Self::MAX))
            .into()
    }
}

impl utoipa::ToSchema for Seconds {}
