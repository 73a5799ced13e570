//! How secrets are kept, and kept out of sight.
//!
//! ```text
//! value ──AES-256-GCM──► ciphertext      under a data key of this value's own
//! data key ──AES-256-GCM──► wrapped key  under a named master key, which never reaches the database
//! ```
//! Both are bound to what they belong to ([`Binding`]): moved to another row, neither opens. To change
//! the master key only the wrapped key is written anew ([`MasterKeys::rewrap`]). What is too large for
//! that is a stream under a key that is kept so ([`StreamKey`]).
//!
//! [`Masker`] replaces values in a stream of output. [`SecretValue`] is what everybody holds one in: it
//! prints nothing, and is cleared from memory when it is dropped.
//!
//! Pure: no I/O. Whoever has a value in hand must never log it, put it into an error, or pass it as a
//! program's argument.

mod envelope;
mod keys;
mod mask;
mod stream;
mod value;

pub use envelope::{Binding, SealError, Sealed};
pub use keys::{InvalidKeys, KeyId, MasterKeys, new_key_line};
pub use mask::{MASK, MIN_MASKED_BYTES, Masked, Masker, Masks};
pub use stream::{StreamError, StreamKey};
pub use value::SecretValue;
