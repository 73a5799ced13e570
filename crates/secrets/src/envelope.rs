//! Envelopes: a value under a key of its own, and that key under a master key.

use crate::{KeyId, MasterKeys, SecretValue, keys::KEY_BYTES};
use aes_gcm::{
    Aes256Gcm, KeyInit as _,
    aead::{Aead as _, Payload},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// The nonce of AES-GCM, in bytes. It is drawn at random: a data key encrypts once, and a master key
/// far fewer than the 2^32 times that a random nonce is good for (NIST SP 800-38D, 8.3).
const NONCE_BYTES: usize = 12;
/// Between the wrapped key and the ciphertext; not of base64.
const SEPARATOR: char = '.';

/// What an envelope belongs to. It opens with the same binding alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding(Vec<u8>);

impl Binding {
    /// A binding to these parts, in this order: a kind of thing, its id, and whatever of it must not be
    /// exchanged.
    pub fn to<const N: usize>(parts: [&str; N]) -> Self {
        let mut bytes = Vec::new();
        for part in parts {
            // With its length, so that ("ab", "c") is not ("a", "bc").
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        Self(bytes)
    }

    /// The binding of a wrapped key: to the thing and the master key.
    fn with(&self, key: &KeyId) -> Vec<u8> {
        [&self.0, key.as_str().as_bytes()].concat()
    }
}

/// A value as the database keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The master key under which its data key is.
    pub key_id: KeyId,
    /// The wrapped data key and the ciphertext.
    pub envelope: String,
}

/// Why an envelope cannot be made or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Its master key is not among those that are known.
    #[error("it is encrypted with the master key {key_id}, which is not known here")]
    UnknownKey {
        /// The key's name.
        key_id: KeyId,
    },
    /// It was changed, belongs to something else, or another key has its key's name.
    #[error(
        "it does not open with the master key {key_id}: it was altered or moved, or that is another key of the same name"
    )]
    Altered {
        /// The key's name.
        key_id: KeyId,
    },
    /// It is no envelope.
    #[error("it is not what this version writes")]
    Malformed,
    /// The value is larger than the cipher takes.
    #[error("the value is too large to be encrypted")]
    TooLarge,
}

impl MasterKeys {
    /// Encrypts a value under the newest key.
    ///
    /// # Errors
    /// [`SealError::TooLarge`].
    pub fn seal(&self, value: &[u8], binding: &Binding) -> Result<Sealed, SealError> {
        let data_key = Zeroizing::new(rand::random::<[u8; KEY_BYTES]>());
        let ciphertext = encrypt(&data_key, value, &binding.0)?;
        self.wrap(&data_key, &ciphertext, binding)
    }

    /// Decrypts a value.
    ///
    /// # Errors
    /// Each [`SealError`] but the last.
    pub fn open(&self, sealed: &Sealed, binding: &Binding) -> Result<SecretValue, SealError> {
        let (data_key, ciphertext) = self.unwrap(sealed, binding)?;
        let value = decrypt(&data_key, &ciphertext, &binding.0);
        let altered = SealError::Altered { key_id: sealed.key_id.clone() };
        value.map(SecretValue::new).ok_or(altered)
    }

    /// The same value with its data key under the newest key; the value itself is not decrypted.
    ///
    /// # Errors
    /// Each [`SealError`].
    pub fn rewrap(&self, sealed: &Sealed, binding: &Binding) -> Result<Sealed, SealError> {
        let (data_key, ciphertext) = self.unwrap(sealed, binding)?;
        self.wrap(&data_key, &ciphertext, binding)
    }

    fn wrap(
        &self,
        data_key: &[u8; KEY_BYTES],
        ciphertext: &[u8],
        binding: &Binding,
    ) -> Result<Sealed, SealError> {
        let key_id = self.newest().clone();
        let master =
            self.key(&key_id).ok_or_else(|| SealError::UnknownKey { key_id: key_id.clone() })?;
        let wrapped = encrypt(master, data_key, &binding.with(&key_id))?;
        let (wrapped, ciphertext) = (STANDARD.encode(wrapped), STANDARD.encode(ciphertext));
        Ok(Sealed { key_id, envelope: format!("{wrapped}{SEPARATOR}{ciphertext}") })
    }

    fn unwrap(
        &self,
        sealed: &Sealed,
        binding: &Binding,
    ) -> Result<(Zeroizing<[u8; KEY_BYTES]>, Vec<u8>), SealError> {
        let key_id = &sealed.key_id;
        let master =
            self.key(key_id).ok_or_else(|| SealError::UnknownKey { key_id: key_id.clone() })?;
        let (wrapped, ciphertext) =
            sealed.envelope.split_once(SEPARATOR).ok_or(SealError::Malformed)?;
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| SealError::Malformed);
        let (wrapped, ciphertext) = (decode(wrapped)?, decode(ciphertext)?);
        let data_key = decrypt(master, &wrapped, &binding.with(key_id)).map(Zeroizing::new);
        let data_key = data_key.ok_or_else(|| SealError::Altered { key_id: key_id.clone() })?;
        let data_key = data_key.as_slice().try_into().map_err(|_| SealError::Malformed)?;
        Ok((Zeroizing::new(data_key), ciphertext))
    }
}

/// A nonce, and what comes of encrypting with it.
fn encrypt(key: &[u8; KEY_BYTES], msg: &[u8], aad: &[u8]) -> Result<Vec<u8>, SealError> {
    let nonce: [u8; NONCE_BYTES] = rand::random();
    let encrypted = Aes256Gcm::new(key.into()).encrypt(&nonce.into(), Payload { msg, aad });
    let encrypted = encrypted.map_err(|_| SealError::TooLarge)?;
    Ok([nonce.as_slice(), &encrypted].concat())
}

/// `None` where the ciphertext, its key or what it is bound to are not those it was made with.
fn decrypt(key: &[u8; KEY_BYTES], sealed: &[u8], aad: &[u8]) -> Option<Vec<u8>> {
    let (nonce, msg) = sealed.split_first_chunk::<NONCE_BYTES>()?;
    Aes256Gcm::new(key.into()).decrypt(&(*nonce).into(), Payload { msg, aad }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::new_key_line;
    use proptest::prelude::*;

    fn line(id: &str) -> String {
        new_key_line(&id.parse().unwrap()).to_string()
    }

    fn keys(text: &str) -> MasterKeys {
        MasterKeys::parse(text).unwrap()
    }

    #[test]
    fn an_envelope_opens_where_it_belongs_and_nowhere_else() {
        let keys = keys(&line("a"));
        let here = Binding::to(["secret", "1", "ab", "c"]);
        let sealed = keys.seal(b"value", &here).unwrap();
        assert_eq!(keys.open(&sealed, &here).unwrap().reveal(), b"value");
        let altered = Err(SealError::Altered { key_id: "a".parse().unwrap() });
        assert_eq!(keys.open(&sealed, &Binding::to(["secret", "2", "ab", "c"])), altered);
        assert_eq!(keys.open(&sealed, &Binding::to(["secret", "1", "a", "bc"])), altered);
        assert!(keys.rewrap(&sealed, &Binding::to(["secret", "2", "ab", "c"])).is_err());
    }

    #[test]
    fn a_new_master_key_changes_the_wrapped_key_alone() {
        let (old, new) = (line("old"), line("new"));
        let here = Binding::to(["secret", "1"]);
        let sealed = keys(&old).seal(b"value", &here).unwrap();
        let both = keys(&format!("{new}{old}"));
        let rewrapped = both.rewrap(&sealed, &here).unwrap();
        let ciphertext = |it: &Sealed| it.envelope.split_once(SEPARATOR).unwrap().1.to_owned();
        assert_eq!(ciphertext(&rewrapped), ciphertext(&sealed));
        assert_eq!(keys(&new).open(&rewrapped, &here).unwrap().reveal(), b"value");
        let unknown = SealError::UnknownKey { key_id: "new".parse().unwrap() };
        assert_eq!(keys(&old).open(&rewrapped, &here), Err(unknown));
        let namesake = keys(&line("new")).open(&rewrapped, &here);
        assert_eq!(namesake, Err(SealError::Altered { key_id: "new".parse().unwrap() }));
    }

    proptest! {
        #[test]
        fn no_changed_byte_goes_unnoticed(value in proptest::collection::vec(any::<u8>(), 0..40),
                                          place in any::<prop::sample::Index>()) {
            let keys = keys(&line("a"));
            let here = Binding::to(["secret", "1"]);
            let sealed = keys.seal(&value, &here).unwrap();
            let opened = keys.open(&sealed, &here).unwrap();
            prop_assert_eq!(opened.reveal(), value.as_slice());
            let mut bytes = sealed.envelope.clone().into_bytes();
            let place = place.index(bytes.len());
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            let envelope = String::from_utf8(bytes).unwrap();
            let opened = keys.open(&Sealed { envelope, ..sealed }, &here);
            prop_assert!(opened.is_err(), "byte {} may be changed", place);
        }
    }
}
