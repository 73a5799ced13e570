//! Streams: data of any length under a key of its own, in chunks that cannot be exchanged, left out or added to.
//!
//! ```text
//! magic │ nonce prefix │ chunk │ chunk │ … │ last chunk
//! chunk: its length with the highest bit set in the last one, then what AES-256-GCM gives
//! ```
//! Nonces are those of STREAM (Hoang, Reyhanitabar, Rogaway, Vizár: "Online Authenticated-Encryption and its
//! Nonce-Reuse Misuse-Resistance", 2015): the prefix, the chunk's number, and whether it is the last. A chunk of
//! zeros is encrypted as nothing, and becomes a hole again.

use crate::{Binding, MasterKeys, SealError, Sealed, keys::KEY_BYTES};
use aead_stream::{DecryptorBE32, EncryptorBE32};
use aes_gcm::{Aes256Gcm, KeyInit as _, aead::Payload};
use std::io::{self, Read, Seek, SeekFrom, Write};
use zeroize::Zeroizing;

/// The first bytes of every stream: what it is, and in which format.
const MAGIC: [u8; 4] = *b"AeS1";
/// Of the 12 bytes of a nonce, STREAM has 4 for the number and 1 for the last.
const PREFIX_BYTES: usize = 7;
/// What a chunk holds; the last holds less.
const CHUNK_BYTES: usize = 1 << 20;
/// What AES-GCM adds.
const TAG_BYTES: usize = 16;
/// Marks the last chunk's length.
const LAST: u32 = 1 << 31;

type Encryptor = EncryptorBE32<Aes256Gcm>;
type Decryptor = DecryptorBE32<Aes256Gcm>;
type Plain = Zeroizing<Vec<u8>>;

/// A key for streams, each with a label of its own.
pub struct StreamKey(Zeroizing<[u8; KEY_BYTES]>);

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// It was altered, cut off, or belongs to another key or label.
    #[error("it was altered or cut off, or it belongs to something else")]
    Altered,
    /// It cannot be read, or what it holds cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl MasterKeys {
    /// A new key for streams, and the envelope that brings it back.
    ///
    /// # Errors
    /// [`SealError::TooLarge`].
    pub fn new_stream_key(&self, binding: &Binding) -> Result<(StreamKey, Sealed), SealError> {
        let key = StreamKey(Zeroizing::new(rand::random()));
        let sealed = self.seal(key.0.as_slice(), binding)?;
        Ok((key, sealed))
    }

    /// The key in an envelope.
    ///
    /// # Errors
    /// Each [`SealError`] but the last.
    pub fn stream_key(&self, sealed: &Sealed, binding: &Binding) -> Result<StreamKey, SealError> {
        let key = self.open(sealed, binding)?;
        let key = key.reveal().try_into().map_err(|_| SealError::Malformed)?;
        Ok(StreamKey(Zeroizing::new(key)))
    }
}

impl StreamKey {
    fn encryptor(&self, prefix: [u8; PREFIX_BYTES]) -> Encryptor {
        Encryptor::from_aead(Aes256Gcm::new((&*self.0).into()), &prefix.into())
    }

    fn decryptor(&self, prefix: [u8; PREFIX_BYTES]) -> Decryptor {
        Decryptor::from_aead(Aes256Gcm::new((&*self.0).into()), &prefix.into())
    }

    /// Encrypts all that can be read.
    ///
    /// # Errors
    /// Reading's or writing's.
    pub fn seal(&self, label: &str, from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
        let prefix: [u8; PREFIX_BYTES] = rand::random();
        to.write_all(&MAGIC)?;
        to.write_all(&prefix)?;
        let mut cipher = self.encryptor(prefix);
        let mut chunk = Zeroizing::new(vec![0; CHUNK_BYTES]);
        loop {
            let read = fill(from, &mut chunk)?;
            let (aad, whole) = (label.as_bytes(), read == CHUNK_BYTES);
            let msg = match whole && is_zeros(&chunk) {
                true => &[],
                false => &chunk[..read],
            };
            let payload = Payload { msg, aad };
            if !whole {
                let sealed = encrypt_last(cipher, payload)?;
                to.write_all(&(sealed.len() as u32 | LAST).to_le_bytes())?;
                return to.write_all(&sealed);
            }
            let sealed = encrypt_next(&mut cipher, payload)?;
            to.write_all(&(sealed.len() as u32).to_le_bytes())?;
            to.write_all(&sealed)?;
        }
    }

    /// Decrypts all of a stream, into what is empty. What has been written when this fails is worth nothing.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn open(
        &self,
        label: &str,
        from: &mut impl Read,
        to: &mut (impl Write + Seek),
    ) -> Result<(), StreamError> {
        let (mut magic, mut prefix) = ([0; MAGIC.len()], [0; PREFIX_BYTES]);
        read_all(from, &mut magic)?;
        read_all(from, &mut prefix)?;
        if magic != MAGIC {
            return Err(StreamError::Altered);
        }
        let mut cipher = self.decryptor(prefix);
        let mut sealed = vec![0; CHUNK_BYTES + TAG_BYTES];
        let mut ends_in_hole = false;
        loop {
            let mut length = [0; size_of::<u32>()];
            read_all(from, &mut length)?;
            let length = u32::from_le_bytes(length);
            let (is_last, length) = (length & LAST != 0, (length & !LAST) as usize);
            let msg = sealed.get_mut(..length).ok_or(StreamError::Altered)?;
            read_all(from, msg)?;
            let payload = Payload { msg, aad: label.as_bytes() };
            if is_last {
                let chunk = decrypt_last(cipher, payload)?;
                if ends_in_hole && chunk.is_empty() {
                    // A hole at the end has no length by itself.
                    to.seek(SeekFrom::Current(-1))?;
                    to.write_all(&[0])?;
                }
                to.write_all(&chunk)?;
                return Ok(to.flush()?);
            }
            let chunk = decrypt_next(&mut cipher, payload)?;
            ends_in_hole = chunk.is_empty();
            match ends_in_hole {
                true => drop(to.seek(SeekFrom::Current(CHUNK_BYTES as i64))?),
                false => to.write_all(&chunk)?,
            }
        }
    }
}

// Apart from what is generic, so that the cipher is compiled here, and as this crate is.

fn encrypt_next(cipher: &mut Encryptor, chunk: Payload<'_, '_>) -> io::Result<Vec<u8>> {
    cipher.encrypt_next(chunk).map_err(too_long)
}

fn encrypt_last(cipher: Encryptor, chunk: Payload<'_, '_>) -> io::Result<Vec<u8>> {
    cipher.encrypt_last(chunk).map_err(too_long)
}

fn too_long(_: aes_gcm::Error) -> io::Error {
    io::Error::other("a stream has no more than 2^32 chunks")
}

fn decrypt_next(cipher: &mut Decryptor, chunk: Payload<'_, '_>) -> Result<Plain, StreamError> {
    cipher.decrypt_next(chunk).map(Zeroizing::new).map_err(|_| StreamError::Altered)
}

fn decrypt_last(cipher: Decryptor, chunk: Payload<'_, '_>) -> Result<Plain, StreamError> {
    cipher.decrypt_last(chunk).map(Zeroizing::new).map_err(|_| StreamError::Altered)
}

/// Reads until the buffer is full or there is no more, and returns how much that was.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Fills the buffer; an end before that is one that was cut off.
fn read_all(from: &mut impl Read, buffer: &mut [u8]) -> Result<(), StreamError> {
    from.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => StreamError::Altered,
        _ => error.into(),
    })
}

fn is_zeros(bytes: &[u8]) -> bool {
    // By words: a guest's memory is gigabytes, most of them zeros.
    let mut words = bytes.chunks_exact(size_of::<u128>());
    words.by_ref().all(|word| word == [0; size_of::<u128>()])
        && words.remainder().iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::new_key_line;
    use proptest::prelude::*;
    use std::io::Cursor;

    const LABEL: &str = "memory";

    fn key() -> StreamKey {
        StreamKey(Zeroizing::new(rand::random()))
    }

    fn sealed(key: &StreamKey, plain: &[u8]) -> Vec<u8> {
        let mut stream = Vec::new();
        key.seal(LABEL, &mut &*plain, &mut stream).unwrap();
        stream
    }

    fn opened(key: &StreamKey, label: &str, stream: &[u8]) -> Result<Vec<u8>, StreamError> {
        let mut plain = Cursor::new(Vec::new());
        key.open(label, &mut &*stream, &mut plain).map(|()| plain.into_inner())
    }

    /// Where the chunks of a stream begin, and where the last ends.
    fn chunks(stream: &[u8]) -> Vec<usize> {
        let mut at = vec![MAGIC.len() + PREFIX_BYTES];
        while *at.last().unwrap() < stream.len() {
            let begin = *at.last().unwrap();
            let length = u32::from_le_bytes(stream[begin..begin + 4].try_into().unwrap());
            at.push(begin + 4 + (length & !LAST) as usize);
        }
        at
    }

    #[test]
    fn what_was_sealed_opens_whatever_its_length_and_its_holes() {
        let key = key();
        let zeros = vec![0; CHUNK_BYTES];
        let text: Vec<u8> = (0..CHUNK_BYTES).map(|byte| byte as u8).collect();
        let tail = b"the end".to_vec();
        let empty = Vec::new();
        for parts in [
            vec![&empty],
            vec![&tail],
            vec![&text],
            vec![&zeros],
            vec![&text, &zeros],
            vec![&zeros, &zeros, &text, &zeros, &tail],
        ] {
            let plain: Vec<u8> = parts.into_iter().flatten().copied().collect();
            let stream = sealed(&key, &plain);
            assert!(opened(&key, LABEL, &stream).unwrap() == plain, "{} bytes", plain.len());
        }
    }

    #[test]
    fn zeros_take_no_room_and_nothing_stands_in_clear() {
        let mut plain = vec![0; 3 * CHUNK_BYTES];
        plain[CHUNK_BYTES + 5..][..19].copy_from_slice(b"a secret of someone");
        let stream = sealed(&key(), &plain);
        assert!(stream.len() < CHUNK_BYTES + 256, "{}", stream.len());
        assert!(!stream.windows(8).any(|bytes| bytes == b"a secret"));
    }

    #[test]
    fn chunks_cannot_be_left_out_exchanged_repeated_or_cut_off() {
        let key = key();
        let mut plain = vec![1; CHUNK_BYTES];
        plain.extend(vec![0; CHUNK_BYTES]);
        plain.extend(vec![2; CHUNK_BYTES + 9]);
        let stream = sealed(&key, &plain);
        let at = chunks(&stream);
        let chunk = |number: usize| &stream[at[number]..at[number + 1]];
        let head = &stream[..at[0]];
        let with = |order: &[usize]| {
            let chunks: Vec<&[u8]> = order.iter().map(|number| chunk(*number)).collect();
            [head, &chunks.concat()].concat()
        };
        assert!(opened(&key, LABEL, &with(&[0, 1, 2, 3])).unwrap() == plain);
        for order in
            [&[1, 2, 3][..], &[0, 2, 3], &[0, 1, 3], &[0, 1, 2], &[1, 0, 2, 3], &[0, 0, 1, 2, 3]]
        {
            let why = opened(&key, LABEL, &with(order)).unwrap_err();
            assert!(matches!(why, StreamError::Altered), "{order:?}: {why}");
        }
        assert!(opened(&key, "state", &stream).is_err(), "it is another file's");
        assert!(opened(&self::key(), LABEL, &stream).is_err(), "it is another key's");
    }

    #[test]
    fn the_key_comes_back_out_of_its_envelope_where_it_belongs() {
        let keys = MasterKeys::parse(&new_key_line(&"a".parse().unwrap())).unwrap();
        let here = Binding::to(["hibernation", "ws_1"]);
        let (key, envelope) = keys.new_stream_key(&here).unwrap();
        let stream = sealed(&key, b"plain");
        let again = keys.stream_key(&envelope, &here).unwrap();
        assert_eq!(opened(&again, LABEL, &stream).unwrap(), b"plain");
        assert!(keys.stream_key(&envelope, &Binding::to(["hibernation", "ws_2"])).is_err());
    }

    proptest! {
        #[test]
        fn no_changed_byte_goes_unnoticed(plain in proptest::collection::vec(any::<u8>(), 0..40),
                                          place in any::<prop::sample::Index>(), bit in 0..8u8) {
            let key = key();
            let mut stream = sealed(&key, &plain);
            let place = place.index(stream.len());
            stream[place] ^= 1 << bit;
            prop_assert!(opened(&key, LABEL, &stream).is_err(), "byte {} may be changed", place);
        }
    }
}
