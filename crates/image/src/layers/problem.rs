//! Why an entry of a layer was refused.

use super::limits::mib;
use std::io;

/// What is wrong with an entry, or with its layer as a whole.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A name has the part `..`.
    #[error("its path climbs with `..`")]
    Climbs,
    /// A name has a zero byte.
    #[error("its path holds a zero byte")]
    ZeroByte,
    /// A name is longer than any system call takes.
    #[error("its path has {bytes} bytes, of which one part {longest}; Linux takes 4095 and 255")]
    NameTooLong {
        /// Its length.
        bytes: usize,
        /// The length of its longest part.
        longest: usize,
    },
    /// The path lies deeper in the tree than is allowed.
    #[error("it lies more than {max} directories deep")]
    TooDeep {
        /// The limit.
        max: u16,
    },
    /// The root would become something else than a directory, or be hidden.
    #[error("the root of the image can only be a directory")]
    RootReplaced,
    /// A whiteout without the name of what it hides.
    #[error("the whiteout names nothing that it could hide")]
    EmptyWhiteout,
    /// What should be its parent directory is none, or cannot be reached inside the image.
    #[error("its parent is no directory inside the image: {0}")]
    Parent(io::Error),
    /// A hard link to what is not there.
    #[error("it is a hard link to {target:?}, which is not in the image")]
    LinkMissing {
        /// The link's target.
        target: String,
    },
    /// A hard link to a directory, or to itself.
    #[error("it is a hard link to {target:?}, which is a directory or the link itself")]
    LinkCircular {
        /// The link's target.
        target: String,
    },
    /// A symbolic link whose text no system call takes.
    #[error(
        "it is a symbolic link with an empty target, one with a zero byte, or one of {bytes} bytes"
    )]
    LinkText {
        /// The target's length.
        bytes: usize,
    },
    /// A type of entry that is not known.
    #[error("its type {flag:?} is not known")]
    Type {
        /// The type flag of its header.
        flag: char,
    },
    /// A sparse file in a form that is not read.
    #[error(
        "it is a sparse file in GNU's PAX format; pack it without --sparse, or with --format=gnu"
    )]
    PaxSparse,
    /// A field of the header cannot be.
    #[error("its {field} cannot be read: {detail}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// More extended attributes than ext4 keeps for a file.
    #[error("its extended attributes take {bytes} bytes; at most {max}")]
    Attributes {
        /// Their size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The image has too many entries.
    #[error("the image has more than {max} entries")]
    TooManyEntries {
        /// The limit.
        max: u64,
    },
    /// The image unpacks to too much.
    #[error("the image unpacks to more than {} MiB", mib(*max))]
    TooLarge {
        /// The limit in bytes.
        max: u64,
    },
    /// The layer unpacks to far more than anything useful would.
    #[error("the layer unpacks to more than {max} times its size, {} MiB so far", mib(*unpacked))]
    TooDense {
        /// The limit.
        max: u64,
        /// Bytes unpacked so far.
        unpacked: u64,
    },
    /// An entry's headers are too large.
    #[error("its headers take more than {max} bytes")]
    HeadersTooLarge {
        /// The limit.
        max: u64,
    },
    /// The layer cannot be read: it is cut short, damaged, or in another format.
    #[error("the layer cannot be read: {0}")]
    Unreadable(io::Error),
    /// The layer's bytes are not those that the image names.
    #[error("its {what} is sha256:{found} and not {expected}")]
    Digest {
        /// Digest of the packed or the unpacked layer.
        what: &'static str,
        /// What the image says.
        expected: String,
        /// What was read, in hexadecimal.
        found: String,
    },
    /// The host could not write it.
    #[error("cannot {action} it on this host: {source}")]
    Host {
        /// What was tried.
        action: &'static str,
        /// What the system answered.
        source: io::Error,
    },
}

/// Says what was tried when a system call on the tree fails.
pub(super) trait OnHost<T> {
    fn host(self, action: &'static str) -> Result<T, Problem>;
}

impl<T, E: Into<io::Error>> OnHost<T> for Result<T, E> {
    fn host(self, action: &'static str) -> Result<T, Problem> {
        self.map_err(|source| Problem::Host { action, source: source.into() })
    }
}
