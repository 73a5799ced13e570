//! From what the kernel says to what a caller is told.

use std::fmt::Display;
use std::io;
use std::path::Path;

use aetherium_agent_proto::{Refusal, RefusalKind};

/// The kind of a failed system call.
pub(crate) fn kind_of(error: &io::Error) -> RefusalKind {
    // A failure that is already told keeps its kind on its way through a library.
    if let Some(refusal) = error.get_ref().and_then(|it| it.downcast_ref::<Refusal>()) {
        return refusal.kind;
    }
    let Some(errno) = error.raw_os_error() else { return RefusalKind::Other };
    match errno {
        libc::ENOENT => RefusalKind::NotFound,
        libc::EEXIST => RefusalKind::AlreadyExists,
        libc::EACCES | libc::EPERM => RefusalKind::PermissionDenied,
        libc::ENOTDIR => RefusalKind::NotADirectory,
        libc::EISDIR => RefusalKind::IsADirectory,
        libc::ENOTEMPTY => RefusalKind::NotEmpty,
        libc::ENOSPC | libc::EDQUOT => RefusalKind::NoSpace,
        libc::EFBIG => RefusalKind::TooLarge,
        libc::EROFS => RefusalKind::ReadOnly,
        libc::ENAMETOOLONG => RefusalKind::NameTooLong,
        libc::ELOOP => RefusalKind::LinkLoop,
        libc::EXDEV => RefusalKind::CrossDevice,
        libc::EBUSY | libc::ETXTBSY => RefusalKind::Busy,
        libc::EINVAL => RefusalKind::InvalidRequest,
        libc::ECONNREFUSED => RefusalKind::ConnectionRefused,
        libc::ECONNRESET | libc::EPIPE => RefusalKind::ConnectionReset,
        libc::ETIMEDOUT => RefusalKind::TimedOut,
        libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN => RefusalKind::ResourceLimit,
        libc::ENOSYS | libc::EOPNOTSUPP => RefusalKind::Unsupported,
        _ => RefusalKind::Other,
    }
}

/// Turns a failed step into a refusal that names its object.
pub(crate) trait OrRefuse<T> {
    /// `cannot("be read", path)` says "`<path>` cannot be read: <error>".
    fn cannot(self, what: &str, path: &Path) -> Result<T, Refusal>;

    /// The same for what is no path.
    fn or_refuse(self, what: impl Display) -> Result<T, Refusal>;
}

impl<T, E: Into<io::Error>> OrRefuse<T> for Result<T, E> {
    fn cannot(self, what: &str, path: &Path) -> Result<T, Refusal> {
        self.or_refuse(format_args!("`{}` cannot {what}", path.display()))
    }

    fn or_refuse(self, what: impl Display) -> Result<T, Refusal> {
        self.map_err(|error| {
            let error = error.into();
            Refusal::new(kind_of(&error), format!("{what}: {error}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_path_and_what_the_kernel_said() {
        let failed: io::Result<()> = Err(io::Error::from_raw_os_error(libc::ENOSPC));
        let refusal = failed.cannot("be written", Path::new("/data/x")).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::NoSpace);
        assert!(refusal.detail.starts_with("`/data/x` cannot be written: No space"), "{refusal}");
    }

    #[test]
    fn a_refusal_that_went_through_a_library_keeps_its_kind() {
        let inner = Refusal::new(RefusalKind::Incomplete, "cut off");
        assert_eq!(kind_of(&io::Error::other(inner)), RefusalKind::Incomplete);
    }
}
