//! The secret that proves to a guest, over TCP, that its own host is calling.
//!
//! Owns the rules of its form and the only comparison allowed. Must never print the secret.

use std::fmt;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

const MIN_LEN: usize = 16;
const MAX_LEN: usize = 256;

/// A VM's token. `Debug` does not show it; it has no `Display`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token(String);

/// A text that cannot be a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a token must be {MIN_LEN} to {MAX_LEN} visible ASCII characters without spaces, and this one \
     has {len} bytes{}; generate one from random bytes",
    if *.visible_ascii { "" } else { ", some of them not visible ASCII" }
)]
pub struct InvalidToken {
    len: usize,
    visible_ascii: bool,
}

impl Token {
    /// Takes a secret of 16 to 256 visible ASCII characters.
    ///
    /// # Errors
    /// [`InvalidToken`] when it is too short, too long, or could not travel in a header.
    pub fn new(secret: impl Into<String>) -> Result<Self, InvalidToken> {
        let secret = secret.into();
        let visible_ascii = secret.bytes().all(|byte| byte.is_ascii_graphic());
        if visible_ascii && (MIN_LEN..=MAX_LEN).contains(&secret.len()) {
            Ok(Self(secret))
        } else {
            Err(InvalidToken { len: secret.len(), visible_ascii })
        }
    }

    /// Writes random bytes down as a token: 64 hexadecimal digits.
    #[must_use]
    pub fn from_random(bytes: [u8; 32]) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(64);
        for byte in bytes {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// Whether `candidate` is this token, in a time that tells nothing about where they differ.
    #[must_use]
    pub fn matches(&self, candidate: &str) -> bool {
        self.0.as_bytes().ct_eq(candidate.as_bytes()).into()
    }

    /// The secret itself, for the one place that puts it on the wire.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

impl TryFrom<String> for Token {
    type Error = InvalidToken;

    fn try_from(secret: String) -> Result<Self, InvalidToken> {
        Self::new(secret)
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_shown_by_debug() {
        let token = Token::new("0123456789abcdef").unwrap();
        assert_eq!(format!("{token:?}"), "Token(redacted)");
    }

    #[test]
    fn a_short_or_spaced_secret_is_no_token() {
        assert!(Token::new("short").is_err());
        assert!(Token::new("0123456789 abcdef").is_err());
        assert!(Token::new("x".repeat(257)).is_err());
    }

    #[test]
    fn only_the_same_secret_matches() {
        let token = Token::from_random([7; 32]);
        assert!(token.matches(&"07".repeat(32)));
        assert!(!token.matches(&"07".repeat(31)));
        assert!(!token.matches(""));
    }
}
