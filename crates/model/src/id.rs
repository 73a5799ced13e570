//! Typed identifiers: a prefix that says what the thing is, and a ULID that sorts by creation time.

use std::{fmt, str::FromStr};

/// Why a string is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {article} id: expected \"{prefix}_\" and 26 characters")]
pub struct InvalidId {
    given: String,
    article: &'static str,
    prefix: &'static str,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal, $article:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(ulid::Ulid);

        impl $name {
            /// What every id of this kind starts with, before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A new identifier; later ones sort after earlier ones, to the millisecond.
            #[allow(clippy::new_without_default, reason = "a new id is never a default")]
            pub fn new() -> Self {
                Self(ulid::Ulid::generate())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}_{}", $prefix, self.0.to_string().to_ascii_lowercase())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(given: &str) -> Result<Self, InvalidId> {
                given
                    .strip_prefix(concat!($prefix, "_"))
                    .filter(|rest| rest.len() == 26 && !rest.bytes().any(|b| b.is_ascii_uppercase()))
                    .and_then(|rest| ulid::Ulid::from_string(&rest.to_ascii_uppercase()).ok())
                    .map(Self)
                    .ok_or_else(|| InvalidId {
                        given: given.chars().take(64).collect(),
                        article: $article,
                        prefix: $prefix,
                    })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .pattern(Some(concat!("^", $prefix, "_[0-9a-hjkmnp-tv-z]{26}$")))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}
    )+};
}

ids! {
    /// One microVM.
    VmId = "vm", "a VM";
    /// What a user owns; it outlives its VMs.
    WorkspaceId = "ws", "a workspace";
    /// One request to a workspace's assistant.
    PromptId = "pr", "a prompt";
    /// One command in a VM.
    ExecutionId = "ex", "an execution";
    /// One durable unit of queued work.
    TaskId = "tk", "a task";
    /// One worker process's identity, kept across its restarts.
    WorkerId = "wk", "a worker";
    /// One address that is told of events.
    WebhookId = "wh", "a webhook";
    /// What workspaces are made from.
    EnvironmentId = "en", "an environment";
    /// One secret.
    SecretId = "sc", "a secret";
    /// One event for one webhook.
    DeliveryId = "dl", "a delivery";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_a_round_trip_through_text() {
        let id = VmId::new();
        assert_eq!(id.to_string().parse::<VmId>(), Ok(id));
        assert_eq!(serde_json::from_str::<VmId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
    }

    #[test]
    fn an_id_of_another_kind_is_refused_by_name() {
        let text = VmId::new().to_string();
        let error = text.parse::<WorkspaceId>().unwrap_err().to_string();
        assert!(error.contains("not a workspace id") && error.contains(&text), "{error}");
        assert!("vm_".parse::<VmId>().is_err());
        assert!("vm_0123456789012345678901234U".parse::<VmId>().is_err());
        assert!("vm_€€€€€€€€€".parse::<VmId>().is_err());
    }
}
