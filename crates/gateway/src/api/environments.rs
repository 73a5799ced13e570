//! What callers say of environments.

use super::{Check, told, wrong};
use crate::problem::FieldError;
use aetherium_model::{EnvironmentId, Name, environment::EnvironmentSpec};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, Error as _, IntoDeserializer as _, MapAccess, Visitor, value},
};
use std::{fmt, marker::PhantomData};

/// Asks for an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(example = json!({"name": "web", "template": "default", "setup": {"tools": ["nodejs@20"]}}))]
pub struct CreateEnvironment {
    /// Its name, unique among environments.
    pub name: Name,
    /// What it says.
    #[serde(flatten)]
    pub spec: EnvironmentSpec,
}

/// Gives an environment its next version: all that it says, in place of what it said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(example = json!({"version": 1, "template": "default", "setup": {"tools": ["nodejs@22"]}}))]
pub struct ReplaceEnvironment {
    /// The version that was read before it was changed. If there is a newer one by now, this is refused.
    #[schema(minimum = 1)]
    pub version: u32,
    /// What it is to say.
    #[serde(flatten)]
    pub spec: EnvironmentSpec,
}

impl Check for CreateEnvironment {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = check_spec(&self.spec);
        if self.name.as_str().parse::<EnvironmentId>().is_ok() {
            errors
                .extend(wrong("name", "is an id, by which it could not be found: choose another"));
        }
        errors
    }
}

impl Check for ReplaceEnvironment {
    fn check(&self) -> Vec<FieldError> {
        check_spec(&self.spec)
    }
}

fn check_spec(spec: &EnvironmentSpec) -> Vec<FieldError> {
    let mut found = spec.objections();
    found.extend(spec.unknown_variables());
    told(found)
}

impl<'de> Deserialize<'de> for CreateEnvironment {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let (name, spec) = d.deserialize_map(Beside::new("name"))?;
        Ok(Self { name, spec })
    }
}

impl<'de> Deserialize<'de> for ReplaceEnvironment {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let (version, spec) = d.deserialize_map(Beside::new("version"))?;
        Ok(Self { version, spec })
    }
}

/// Reads one field, and what its neighbours are. Serde's own way of it (`flatten`) neither refuses unknown
/// fields nor says where a value is wrong.
struct Beside<K, T> {
    field: &'static str,
    read: PhantomData<(K, T)>,
}

impl<K, T> Beside<K, T> {
    const fn new(field: &'static str) -> Self {
        Self { field, read: PhantomData }
    }
}

impl<'de, K: Deserialize<'de>, T: Deserialize<'de>> Visitor<'de> for Beside<K, T> {
    type Value = (K, T);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<(K, T), M::Error> {
        let mut found = None;
        let rest = Rest { map, field: self.field, found: &mut found };
        let neighbours = T::deserialize(value::MapAccessDeserializer::new(rest))?;
        Ok((found.ok_or_else(|| M::Error::missing_field(self.field))?, neighbours))
    }
}

/// A map without one of its fields, which is put aside.
struct Rest<'f, M, K> {
    map: M,
    field: &'static str,
    found: &'f mut Option<K>,
}

impl<'de, M: MapAccess<'de>, K: Deserialize<'de>> MapAccess<'de> for Rest<'_, M, K> {
    type Error = M::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, M::Error> {
        let mut seed = seed;
        loop {
            let key = self.map.next_key_seed(KeySeed { field: self.field, seed })?;
            seed = match key {
                None => return Ok(None),
                Some(Key::Rest(key)) => return Ok(Some(key)),
                Some(Key::Own(seed)) => seed,
            };
            if self.found.is_some() {
                return Err(M::Error::duplicate_field(self.field));
            }
            *self.found = Some(self.map.next_value()?);
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, M::Error> {
        self.map.next_value_seed(seed)
    }
}

/// Reads a key: the field's own leaves the seed for the next.
struct KeySeed<S> {
    field: &'static str,
    seed: S,
}

enum Key<S, T> {
    Own(S),
    Rest(T),
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for KeySeed<S> {
    type Value = Key<S, S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        let key = String::deserialize(d)?;
        if key == self.field {
            return Ok(Key::Own(self.seed));
        }
        let key: value::StringDeserializer<D::Error> = key.into_deserializer();
        self.seed.deserialize(key).map(Key::Rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<CreateEnvironment, String> {
        let mut parser = serde_json::Deserializer::from_str(text);
        serde_path_to_error::deserialize(&mut parser).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_stands_beside_what_an_environment_says() {
        let environment = read(r#"{"vcpus":2,"name":"web","setup":{"tools":["git"]}}"#).unwrap();
        let back = serde_json::to_string(&environment).unwrap();
        assert_eq!(read(&back).unwrap(), environment);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        for (text, path, says) in [
            (r#"{"vcpus":2}"#, ".", "missing field `name`"),
            (r#"{"name":"a","name":"b"}"#, ".", "duplicate field `name`"),
            (r#"{"name":"a b"}"#, "name", "a b"),
            (r#"{"name":"a","vcpu":2}"#, "vcpu", "unknown field"),
            (r#"{"name":"a","setup":{"repository":{"depth":-1}}}"#, "setup.repository.depth", "-1"),
            (r#"{"name":"a","setup":{"tools":["git","a b"]}}"#, "setup.tools[1]", "a b"),
        ] {
            let error = read(text).unwrap_err();
            let begins = if path == "." { String::new() } else { format!("{path}: ") };
            assert!(error.starts_with(&begins) && error.contains(says), "{text}: {error}");
        }
    }
}
