//! Secrets: what is known of them beside their values, which are never among these types.

use crate::{SecretId, Timestamp, WorkspaceId};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// The longest value, in bytes: half of what Linux takes as one variable (`MAX_ARG_STRLEN`).
pub const MAX_VALUE_BYTES: usize = 64 * 1024;
/// Secrets that one prompt, command or workspace may ask for.
pub const MAX_USES: usize = 64;

/// Why a text cannot be a secret's name, or a variable's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be the name of a secret or of its variable: use 1 to 63 of A-Z, a-z, 0-9 and '_', not starting with a digit"
)]
pub struct InvalidSecretName(String);

/// A secret's name, which is always one that a variable of the environment may have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
#[schema(value_type = String, pattern = "^[A-Za-z_][A-Za-z0-9_]{0,62}$", example = "API_TOKEN")]
#[serde(transparent)]
pub struct SecretName(String);

impl SecretName {
    /// The longest name, in characters.
    pub const MAX_CHARS: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = InvalidSecretName;

    fn from_str(given: &str) -> Result<Self, InvalidSecretName> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let valid = (1..=Self::MAX_CHARS).contains(&given.len())
            && given.bytes().all(allowed)
            && !given.as_bytes()[0].is_ascii_digit();
        if valid {
            Ok(Self(given.to_owned()))
        } else {
            Err(InvalidSecretName(given.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a secret is, and so how a command gets it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum SecretKind {
    /// Text, for a variable.
    #[default]
    Opaque,
    /// Bytes, for a file.
    File,
    /// A private key of SSH, for a file.
    SshKey,
    /// What a registry of images or packages is spoken to with, for a variable.
    RegistryToken,
    /// What a git server is spoken to with over HTTPS, for a variable.
    GitToken,
    /// What an assistant is known to its provider by, for a variable.
    AssistantCredential,
}

/// How a command gets a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// In a variable of its environment.
    Variable,
    /// In a file in memory, whose path a variable says.
    File,
}

/// Why a value cannot be a secret of its kind. Never says what the value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// There is nothing in it.
    #[error("is empty")]
    Empty,
    /// It is larger than may be.
    #[error("has {bytes} bytes; at most {MAX_VALUE_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It cannot be a variable's value.
    #[error("is for a variable, and so must be UTF-8 without NUL bytes")]
    NotText,
    /// A token of several lines or words.
    #[error("is a token, and so must have no spaces or line breaks")]
    NotOneWord,
    /// No private key of SSH.
    #[error("is no private key: it must be the file that ssh-keygen wrote, from its BEGIN line on")]
    NotAKey,
}

impl SecretKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Opaque,
        Self::File,
        Self::SshKey,
        Self::RegistryToken,
        Self::GitToken,
        Self::AssistantCredential,
    ];

    /// The kind's name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opaque => "opaque",
            Self::File => "file",
            Self::SshKey => "ssh_key",
            Self::RegistryToken => "registry_token",
            Self::GitToken => "git_token",
            Self::AssistantCredential => "assistant_credential",
        }
    }

    /// How a command gets it.
    pub const fn delivery(self) -> Delivery {
        match self {
            Self::File | Self::SshKey => Delivery::File,
            Self::Opaque | Self::RegistryToken | Self::GitToken | Self::AssistantCredential => {
                Delivery::Variable
            }
        }
    }

    /// Checks that a value can be of this kind.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check(self, value: &[u8]) -> Result<(), InvalidValue> {
        if value.is_empty() {
            return Err(InvalidValue::Empty);
        }
        if value.len() > MAX_VALUE_BYTES {
            return Err(InvalidValue::TooLarge { bytes: value.len() });
        }
        let text = std::str::from_utf8(value).ok().filter(|text| !text.contains('\0'));
        if self.delivery() == Delivery::Variable && text.is_none() {
            return Err(InvalidValue::NotText);
        }
        let text = text.unwrap_or_default();
        match self {
            Self::RegistryToken | Self::GitToken if text.contains(char::is_whitespace) => {
                Err(InvalidValue::NotOneWord)
            }
            Self::SshKey
                if !(text.starts_with("-----BEGIN ") && text.contains("PRIVATE KEY-----")) =>
            {
                Err(InvalidValue::NotAKey)
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for SecretKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SecretKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|known| known.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            format!("{text:?} is not a kind of secret: give {known}")
        })
    }
}

/// Whose a secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretScope {
    /// Its project's: every workspace and VM of it may ask for it.
    Project,
    /// One workspace's, where it goes before the project's of the same name.
    Workspace(WorkspaceId),
}

/// What is known of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Secret {
    /// Its id.
    pub id: SecretId,
    /// Its name, unique within its workspace or project.
    pub name: SecretName,
    /// What it is.
    pub kind: SecretKind,
    /// The workspace it belongs to; absent where it is the project's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<WorkspaceId>,
    /// The master key it is encrypted under.
    pub key_id: String,
    /// When its name was first given a value.
    pub created_at: Timestamp,
    /// When it got the value it has.
    pub updated_at: Timestamp,
}

/// The secrets that a command gets, each with the variable that it gets it in.
///
/// Written as a list of names, each for the variable of the same name, or as an object of variables:
/// `["TOKEN"]` is `{"TOKEN": {"secret": "TOKEN"}}`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecretUses(BTreeMap<SecretName, SecretName>);

impl SecretUses {
    /// Each variable with its secret.
    pub fn iter(&self) -> impl Iterator<Item = (&SecretName, &SecretName)> {
        self.0.iter()
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many variables there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// These, and what `more` asks for, which goes before.
    #[must_use]
    pub fn with(&self, more: &Self) -> Self {
        let both = self.0.iter().chain(&more.0);
        Self(both.map(|(variable, name)| (variable.clone(), name.clone())).collect())
    }
}

impl FromIterator<(SecretName, SecretName)> for SecretUses {
    /// Of variables with their secrets.
    fn from_iter<T: IntoIterator<Item = (SecretName, SecretName)>>(uses: T) -> Self {
        Self(uses.into_iter().collect())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Use {
    secret: SecretName,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "give names of secrets, or variables as {\"VARIABLE\": {\"secret\": \"NAME\"}}"
)]
enum Written {
    Names(Vec<SecretName>),
    Variables(BTreeMap<SecretName, Use>),
}

impl Serialize for SecretUses {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(
            self.0.iter().map(|(variable, name)| (variable, Use { secret: name.clone() })),
        )
    }
}

impl<'de> Deserialize<'de> for SecretUses {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(match Written::deserialize(d)? {
            Written::Names(names) => names.into_iter().map(|it| (it.clone(), it)).collect(),
            Written::Variables(uses) => {
                uses.into_iter().map(|(it, used)| (it, used.secret)).collect()
            }
        })
    }
}

impl utoipa::PartialSchema for SecretUses {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Ref, Type};
        let name = || Ref::from_schema_name("SecretName");
        let used = ObjectBuilder::new().property("secret", name()).required("secret");
        let variables =
            ObjectBuilder::new().schema_type(Type::Object).additional_properties(Some(used));
        OneOfBuilder::new()
            .item(ArrayBuilder::new().items(name()))
            .item(variables)
            .description(Some(
                "Names of secrets, each for the variable of the same name; or variables with their secrets.",
            ))
            .into()
    }
}

impl utoipa::ToSchema for SecretUses {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_names_is_short_for_variables_of_the_same_names() {
        let short: SecretUses = serde_json::from_str(r#"["A"]"#).unwrap();
        let long = r#"{"A":{"secret":"A"}}"#;
        assert_eq!(serde_json::from_str::<SecretUses>(long).unwrap(), short);
        assert_eq!(serde_json::to_string(&short).unwrap(), long);
        for bad in
            [r#"["A B"]"#, r#"{"1":{"secret":"A"}}"#, r#"{"A":"B"}"#, r#"{"A=B":{"secret":"A"}}"#]
        {
            assert!(serde_json::from_str::<SecretUses>(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn what_a_prompt_asks_for_goes_before_what_its_workspace_does() {
        let uses = |text: &str| serde_json::from_str::<SecretUses>(text).unwrap();
        let both = uses(r#"["A","B"]"#).with(&uses(r#"{"B":{"secret":"C"}}"#));
        assert_eq!(both, uses(r#"{"A":{"secret":"A"},"B":{"secret":"C"}}"#));
    }

    #[test]
    fn a_value_must_be_of_its_kind_and_is_not_repeated() {
        use SecretKind::{File, GitToken, Opaque, SshKey};
        assert_eq!(Opaque.check(b""), Err(InvalidValue::Empty));
        assert_eq!(Opaque.check(b"a\0b"), Err(InvalidValue::NotText));
        assert_eq!(File.check(&[0xff, 0]), Ok(()));
        assert_eq!(GitToken.check(b"ghp_x\n"), Err(InvalidValue::NotOneWord));
        assert_eq!(SshKey.check(b"ssh-ed25519 AAAA"), Err(InvalidValue::NotAKey));
        let key = b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----\n";
        assert_eq!(SshKey.check(key), Ok(()));
        let bytes = MAX_VALUE_BYTES + 1;
        assert_eq!(File.check(&vec![1; bytes]), Err(InvalidValue::TooLarge { bytes }));
    }
}
