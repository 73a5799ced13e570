//! Why an agent did not do what it was asked: a code for programs, a sentence for people.

use std::fmt;

/// A request an agent could not, or would not, carry out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// Why, for programs.
    pub kind: RefusalKind,
    /// What happened and with which value, in the agent's words.
    pub detail: String,
}

impl Refusal {
    /// A refusal of that kind, with a sentence that names the value.
    pub fn new(kind: RefusalKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])+ $name:ident = $code:literal,)+) => {
        /// Why, with one stable code each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum RefusalKind {
            $($(#[$doc])+ $name,)+
        }

        impl RefusalKind {
            /// Every kind there is.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The stable code, as in `not_found`.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)+
                }
            }
        }
    };
}

kinds! {
    /// The request itself is wrong.
    InvalidRequest = "invalid_request",
    /// There is no such file.
    NotFound = "not_found",
    /// There is one already.
    AlreadyExists = "already_exists",
    /// The acting user has no right to it.
    PermissionDenied = "permission_denied",
    /// Something in the way is no directory.
    NotADirectory = "not_a_directory",
    /// It is a directory where none can be.
    IsADirectory = "is_a_directory",
    /// It is no regular file where one must be.
    NotAFile = "not_a_file",
    /// The directory has entries.
    NotEmpty = "not_empty",
    /// The disk, or the user's share of it, is full.
    NoSpace = "no_space",
    /// The file would be larger than the guest allows.
    TooLarge = "too_large",
    /// The file system takes no changes.
    ReadOnly = "read_only",
    /// A name is longer than the file system takes.
    NameTooLong = "name_too_long",
    /// Symbolic links lead in a circle.
    LinkLoop = "link_loop",
    /// The two names are on different file systems.
    CrossDevice = "cross_device",
    /// It is in use.
    Busy = "busy",
    /// The guest has no such user.
    UnknownUser = "unknown_user",
    /// The guest has no such group.
    UnknownGroup = "unknown_group",
    /// The bytes are no tar archive this agent takes.
    BadArchive = "bad_archive",
    /// An entry of an archive would lie, or lead, outside its directory.
    OutsideDirectory = "outside_directory",
    /// The upload ended before it was complete.
    Incomplete = "incomplete",
    /// Nothing listens on the port.
    ConnectionRefused = "connection_refused",
    /// The other side did not answer in time.
    TimedOut = "timed_out",
    /// The other side broke the connection.
    ConnectionReset = "connection_reset",
    /// The agent's own limit, or one of the guest's, is reached.
    ResourceLimit = "resource_limit",
    /// The agent shares the machine with others and does not change it.
    NotItsMachine = "not_its_machine",
    /// The guest's kernel cannot do it.
    Unsupported = "unsupported",
    /// Anything else, as the detail says.
    Other = "other",
}

impl RefusalKind {
    /// The kind of that code; [`RefusalKind::Other`] for one of a newer agent.
    #[must_use]
    pub fn from_code(code: &str) -> Self {
        Self::ALL.iter().copied().find(|kind| kind.code() == code).unwrap_or(Self::Other)
    }
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_as_its_kind_and_one_of_the_future_as_other() {
        for kind in RefusalKind::ALL {
            assert_eq!(RefusalKind::from_code(kind.code()), *kind);
        }
        assert_eq!(RefusalKind::from_code("from_the_future"), RefusalKind::Other);
    }
}
