//! Master keys: read from text of one `id:base64` a line, the first of which encrypts.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::{collections::HashSet, fmt, str::FromStr};
use zeroize::Zeroizing;

/// A key of AES-256, in bytes.
pub(crate) const KEY_BYTES: usize = 32;
/// The longest name of a key, in bytes.
const MAX_ID_BYTES: usize = 32;
/// Of 32 random bytes about 30 differ; fewer than this many were typed, not drawn.
const MIN_DIFFERENT_BYTES: usize = 16;
/// Keys that may be known at once: those of a rotation, and of some before it.
const MAX_KEYS: usize = 16;

/// The name of a master key, which is kept beside what it encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for KeyId {
    type Err = InvalidKeys;

    fn from_str(text: &str) -> Result<Self, InvalidKeys> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if (1..=MAX_ID_BYTES).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidKeys::BadId)
        }
    }
}

/// Why a text gives no master keys. Never says what the text is: it may be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeys {
    /// There is none.
    #[error("there is no key in it")]
    Empty,
    /// More than may be.
    #[error("it has more than {MAX_KEYS} keys; remove those that nothing is encrypted with")]
    TooMany,
    /// A line is not a name, a colon and a key.
    #[error("line {line} is not `id:base64`")]
    BadLine {
        /// Its number, from 1.
        line: usize,
    },
    /// A name that cannot be one.
    #[error("a key's name has 1 to {MAX_ID_BYTES} of a-z, A-Z, 0-9, '-', '_' and '.'")]
    BadId,
    /// Two keys of one name.
    #[error("there are two keys named {id}")]
    Twice {
        /// The name.
        id: KeyId,
    },
    /// A key that is not one of AES-256.
    #[error("the key {id} is not base64 of {KEY_BYTES} bytes")]
    BadKey {
        /// Its name.
        id: KeyId,
    },
    /// A key that was not drawn at random.
    #[error("the key {id} is weak: too few of its bytes differ")]
    Weak {
        /// Its name.
        id: KeyId,
    },
}

struct MasterKey {
    id: KeyId,
    key: Zeroizing<[u8; KEY_BYTES]>,
}

/// Master keys; the first encrypts, the others only decrypt.
pub struct MasterKeys {
    first: MasterKey,
    others: Vec<MasterKey>,
}

impl MasterKeys {
    /// Reads keys, one `id:base64` a line. Empty lines and those that begin with `#` are passed over.
    ///
    /// # Errors
    /// The first line that is no key, or none that should be used.
    pub fn parse(text: &str) -> Result<Self, InvalidKeys> {
        let mut ids = HashSet::new();
        let mut keys = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = MasterKey::parse(line, number)?;
            if !ids.insert(key.id.clone()) {
                return Err(InvalidKeys::Twice { id: key.id });
            }
            keys.push(key);
        }
        if keys.len() > MAX_KEYS {
            return Err(InvalidKeys::TooMany);
        }
        let mut keys = keys.into_iter();
        let first = keys.next().ok_or(InvalidKeys::Empty)?;
        Ok(Self { first, others: keys.collect() })
    }

    /// The key that encrypts.
    pub fn newest(&self) -> &KeyId {
        &self.first.id
    }

    pub(crate) fn key(&self, id: &KeyId) -> Option<&[u8; KEY_BYTES]> {
        let mut all = std::iter::once(&self.first).chain(&self.others);
        all.find(|it| it.id == *id).map(|it| &*it.key)
    }
}

impl MasterKey {
    fn parse(line: &str, number: usize) -> Result<Self, InvalidKeys> {
        let (id, key) = line.split_once(':').ok_or(InvalidKeys::BadLine { line: number })?;
        let id: KeyId = id.trim().parse()?;
        let bytes = STANDARD.decode(key.trim()).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| InvalidKeys::BadKey { id: id.clone() })?;
        let bytes: &[u8; KEY_BYTES] =
            bytes.as_slice().try_into().map_err(|_| InvalidKeys::BadKey { id: id.clone() })?;
        if bytes.iter().collect::<HashSet<_>>().len() < MIN_DIFFERENT_BYTES {
            return Err(InvalidKeys::Weak { id });
        }
        Ok(Self { id, key: Zeroizing::new(*bytes) })
    }
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others = self.others.iter().map(|it| &it.id);
        f.debug_list().entry(&self.first.id).entries(others).finish()
    }
}

/// A line with a new key of this name, drawn at random.
pub fn new_key_line(id: &KeyId) -> Zeroizing<String> {
    let key = Zeroizing::new(rand::random::<[u8; KEY_BYTES]>());
    Zeroizing::new(format!("{id}:{}\n", Zeroizing::new(STANDARD.encode(*key)).as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> InvalidKeys {
        MasterKeys::parse(text).unwrap_err()
    }

    #[test]
    fn the_first_key_encrypts_and_a_made_one_is_taken() {
        let line = |id: &str| new_key_line(&id.parse().unwrap()).to_string();
        let text = format!("# keys\n\n{}{}", line("new"), line("old"));
        let keys = MasterKeys::parse(&text).unwrap();
        assert_eq!(keys.newest().as_str(), "new");
        assert!(keys.key(&"old".parse().unwrap()).is_some());
        assert!(keys.key(&"older".parse().unwrap()).is_none());
        assert_eq!(format!("{keys:?}"), r#"[KeyId("new"), KeyId("old")]"#);
    }

    #[test]
    fn what_is_no_key_or_a_weak_one_is_refused_and_never_shown() {
        let a = "a".parse().unwrap();
        assert_eq!(refusal("# nothing\n"), InvalidKeys::Empty);
        assert_eq!(refusal("hunter2"), InvalidKeys::BadLine { line: 1 });
        assert_eq!(refusal("a b:hunter2"), InvalidKeys::BadId);
        assert_eq!(refusal("a:hunter2"), InvalidKeys::BadKey { id: KeyId::clone(&a) });
        let short = STANDARD.encode([7; 16]);
        assert_eq!(refusal(&format!("a:{short}")), InvalidKeys::BadKey { id: KeyId::clone(&a) });
        let zeros = STANDARD.encode([0; 32]);
        assert_eq!(refusal(&format!("a:{zeros}")), InvalidKeys::Weak { id: KeyId::clone(&a) });
        let line = new_key_line(&a);
        assert_eq!(refusal(&line.repeat(2)), InvalidKeys::Twice { id: a });
        assert!(!refusal("hunter2").to_string().contains("hunter2"));
    }
}
