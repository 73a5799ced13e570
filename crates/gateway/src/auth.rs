//! Who may speak: API keys, kept as SHA-256 and compared in constant time.
//!
//! Every route needs a key but the two that orchestrators probe, [`OPEN`]. A key never reaches a
//! log, a worker or a response.

use crate::{Error, Gateway};
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::{Choice, ConstantTimeEq};

/// The paths that need no key.
pub(crate) const OPEN: [&str; 2] = ["/health", "/ready"];

/// A string that cannot be an API key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an API key must be {MIN_KEY_CHARS} or more visible ASCII characters, without spaces")]
pub struct InvalidKey;

/// Shorter keys can be guessed.
const MIN_KEY_CHARS: usize = 16;

/// The known API keys, by their SHA-256.
#[derive(Clone, Default)]
pub struct ApiKeys(Vec<[u8; 32]>);

impl ApiKeys {
    /// Takes the keys themselves; only their hashes stay.
    ///
    /// # Errors
    /// [`InvalidKey`] if one is too short or could not be sent in a header.
    pub fn new<K: AsRef<str>>(keys: impl IntoIterator<Item = K>) -> Result<Self, InvalidKey> {
        let hash = |key: K| {
            let key = key.as_ref();
            let sound = key.len() >= MIN_KEY_CHARS && key.bytes().all(|b| b.is_ascii_graphic());
            sound.then(|| Sha256::digest(key).into()).ok_or(InvalidKey)
        };
        keys.into_iter().map(hash).collect::<Result<_, _>>().map(Self)
    }

    /// Whether `key` is one of them. Takes as long for a wrong key as for a right one.
    pub fn contains(&self, key: &[u8]) -> bool {
        let given: [u8; 32] = Sha256::digest(key).into();
        let any = |found: Choice, known: &[u8; 32]| found | known.ct_eq(&given);
        self.0.iter().fold(Choice::from(0), any).into()
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
    request: Request,
    next: Next,
) -> Response {
    if !OPEN.contains(&request.uri().path()) {
        match key(request.headers()) {
            None => return Error::Unauthorized("the request carries no API key").into_response(),
            Some(key) if !gateway.config().keys.contains(key) => {
                return Error::Unauthorized("the API key is not a known one").into_response();
            }
            Some(_) => {}
        }
    }
    next.run(request).await
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
