//! Who may speak: API keys, kept as SHA-256 and compared in constant time.
//!
//! Every route needs a key but the two that orchestrators probe, [`OPEN`]. A key never reaches a
//! log, a worker or a response.

use crate::{Error, Gateway, edge::RequestId};
use aetherium_model::{
    event::{Actor, By},
    project::ProjectId,
};
use axum::{
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, header, request::Parts};
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

/// The paths that need no key.
pub(crate) const OPEN: [&str; 2] = ["/health", "/ready"];

/// A string that cannot be an API key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an API key must be {MIN_KEY_CHARS} or more visible ASCII characters, without spaces")]
pub struct InvalidKey;

/// Shorter keys can be guessed.
const MIN_KEY_CHARS: usize = 16;
/// The bytes of a key's SHA-256 that the event log names it by.
const KEY_ID_BYTES: usize = 6;

/// The known API keys, by their SHA-256, each with its project.
#[derive(Clone, Default)]
pub struct ApiKeys(Vec<Known>);

#[derive(Clone)]
struct Known {
    hash: [u8; 32],
    project: ProjectId,
}

/// Who makes a request: a key that is known.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The beginning of its SHA-256: enough to tell keys apart, and no help in guessing one.
    pub(crate) key_id: String,
    pub(crate) project: ProjectId,
}

impl ApiKeys {
    /// Takes the keys themselves, of the default project; only their hashes stay.
    ///
    /// # Errors
    /// [`InvalidKey`] if one is too short or could not be sent in a header.
    pub fn new<K: AsRef<str>>(keys: impl IntoIterator<Item = K>) -> Result<Self, InvalidKey> {
        Self::default().and(&ProjectId::default(), keys)
    }

    /// Adds keys of a project.
    ///
    /// # Errors
    /// [`InvalidKey`] if one is too short or could not be sent in a header.
    pub fn and<K: AsRef<str>>(
        mut self,
        project: &ProjectId,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Self, InvalidKey> {
        let known = |key: K| {
            let key = key.as_ref();
            let sound = key.len() >= MIN_KEY_CHARS && key.bytes().all(|b| b.is_ascii_graphic());
            let known = || Known { hash: Sha256::digest(key).into(), project: project.clone() };
            sound.then(known).ok_or(InvalidKey)
        };
        let keys: Vec<_> = keys.into_iter().map(known).collect::<Result<_, _>>()?;
        self.0.extend(keys);
        Ok(self)
    }

    /// Whether there is none, so that nobody could speak.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `key` is one of them. Takes as long for a wrong key as for a right one.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.caller(key).is_some()
    }

    /// Whose key it is. Looks at every one of them, however early it is found.
    pub(crate) fn caller(&self, key: &[u8]) -> Option<Caller> {
        let given: [u8; 32] = Sha256::digest(key).into();
        let mut found = None;
        for known in &self.0 {
            if bool::from(known.hash.ct_eq(&given)) {
                found = Some(&known.project);
            }
        }
        let hex = |text: String, byte: &u8| text + &format!("{byte:02x}");
        let key_id = given[..KEY_ID_BYTES].iter().fold(String::new(), hex);
        found.map(|project| Caller { key_id, project: project.clone() })
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({})", self.0.len())
    }
}

/// Lets a request pass that carries a known key, or goes to an [`OPEN`] path.
pub(crate) async fn require_key(
    State(gateway): State<Gateway>,
    mut request: Request,
    next: Next,
) -> Response {
    if !OPEN.contains(&request.uri().path()) {
        match key(request.headers()) {
            None => return Error::Unauthorized("the request carries no API key").into_response(),
            Some(key) => match gateway.config().keys.caller(key) {
                None => {
                    return Error::Unauthorized("the API key is not a known one").into_response();
                }
                Some(caller) => _ = request.extensions_mut().insert(caller),
            },
        }
    }
    next.run(request).await
}

/// The gateway, acting for whoever makes the request: what it changes is written down as theirs.
pub(crate) struct Acting(pub(crate) Gateway);

impl FromRequestParts<Gateway> for Acting {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Error> {
        let Some(Caller { key_id, project }) = parts.extensions.get::<Caller>().cloned() else {
            return Err(Error::Defect("a request was let in without a key".to_owned()));
        };
        let request_id = parts.extensions.get::<RequestId>();
        let request_id = request_id.and_then(|id| id.0.to_str().ok()).map(str::to_owned);
        let by = By { actor: Actor::ApiKey(key_id), request_id, project };
        Ok(Self(gateway.on_behalf_of(by)))
    }
}

/// The key a request carries; the scheme's name is case-insensitive (RFC 9110, section 11.1).
fn key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = || {
        let value = headers.get(header::AUTHORIZATION)?.as_bytes();
        let (scheme, key) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    };
    bearer().or_else(|| headers.get("x-api-key").map(|value| value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_key_is_contained_and_none_is_shown() {
        let keys = ApiKeys::new(["0123456789abcdef", "fedcba9876543210"]).unwrap();
        assert!(keys.contains(b"fedcba9876543210"));
        assert!(!keys.contains(b"0123456789abcde") && !keys.contains(b""));
        assert!(!ApiKeys::default().contains(b""));
        assert_eq!(format!("{keys:?}"), "ApiKeys(2)");
        assert!(ApiKeys::new(["short"]).is_err() && ApiKeys::new(["0123456789 abcdef"]).is_err());
    }

    #[test]
    fn a_key_belongs_to_the_project_it_was_given_for() {
        let other: ProjectId = "other".parse().unwrap();
        let keys = ApiKeys::new(["0123456789abcdef"]).unwrap();
        let keys = keys.and(&other, ["fedcba9876543210"]).unwrap();
        assert_eq!(keys.caller(b"0123456789abcdef").unwrap().project, ProjectId::default());
        let caller = keys.caller(b"fedcba9876543210").unwrap();
        assert_eq!((caller.project, caller.key_id.len()), (other, 12));
    }

    #[test]
    fn a_key_is_found_in_either_header() {
        let headers = |name, value: &str| HeaderMap::from_iter([(name, value.parse().unwrap())]);
        assert_eq!(key(&headers(header::AUTHORIZATION, "bearer  k")), Some(&b"k"[..]));
        assert_eq!(key(&headers(header::AUTHORIZATION, "Basic k")), None);
        assert_eq!(
            key(&headers(header::HeaderName::from_static("x-api-key"), "k")),
            Some(&b"k"[..])
        );
        assert_eq!(key(&HeaderMap::new()), None);
    }
}
