//! What callers say of secrets. Values come in here, and none goes out.

use super::{Check, wrong};
use crate::problem::FieldError;
use aetherium_model::secret::{SecretKind, SecretName};
use aetherium_secrets::SecretValue;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroizing;

/// Gives a secret its value: a new one, or in place of the one it had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "API_TOKEN", "value": "…"}))]
pub struct PutSecret {
    /// Its name, which a variable of the environment may have, too.
    pub name: SecretName,
    /// What it is.
    #[serde(default)]
    pub kind: SecretKind,
    /// Its value, which is never shown again.
    pub value: WrittenValue,
    /// How the value is written.
    #[serde(default)]
    pub encoding: ValueEncoding,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValueEncoding {
    /// As it is.
    #[default]
    Text,
    /// In base64, as values must be that are no text.
    Base64,
}

/// A value as a caller writes it; cleared from memory when it is dropped.
#[derive(Clone, PartialEq, Eq, utoipa::ToSchema)]
#[schema(value_type = String, max_length = 87_384)]
pub struct WrittenValue(Zeroizing<String>);

impl PutSecret {
    /// A secret of any bytes.
    pub fn new(name: SecretName, kind: SecretKind, value: &SecretValue) -> Self {
        let value = WrittenValue(Zeroizing::new(STANDARD.encode(value.reveal())));
        Self { name, kind, value, encoding: ValueEncoding::Base64 }
    }

    /// The value itself; `None` where it is not written as it says.
    pub fn value(&self) -> Option<SecretValue> {
        let written = self.value.0.as_bytes();
        match self.encoding {
            ValueEncoding::Text => Some(written.to_vec()),
            ValueEncoding::Base64 => STANDARD.decode(written).ok(),
        }
        .map(SecretValue::new)
    }
}

impl Check for PutSecret {
    fn check(&self) -> Vec<FieldError> {
        let Some(value) = self.value() else { return wrong("value", "is not base64") };
        let checked = self.kind.check(value.reveal());
        checked.err().map(|invalid| wrong("value", invalid.to_string())).unwrap_or_default()
    }
}

impl Serialize for WrittenValue {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for WrittenValue {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // The parser's own error would repeat what was given.
        let text = String::deserialize(d);
        let text = text.map_err(|_| serde::de::Error::custom("is not a text"))?;
        Ok(Self(Zeroizing::new(text)))
    }
}

impl fmt::Debug for WrittenValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrittenValue")
    }
}
