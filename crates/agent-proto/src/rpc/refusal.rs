//! Refusals on the wire: a Connect error for every reader, with the stable code as its detail.

use connectrpc::{ConnectError, ErrorCode, ErrorDetail};

use super::wire;
use crate::{Refusal, RefusalKind};

/// The full name of the detail's message.
pub const REFUSAL_TYPE: &str = "aetherium.agent.v1.Refusal";

impl RefusalKind {
    /// The nearest of the codes that Connect knows.
    const fn connect_code(self) -> ErrorCode {
        match self {
            Self::InvalidRequest | Self::BadArchive | Self::OutsideDirectory => {
                ErrorCode::InvalidArgument
            }
            Self::NotFound | Self::UnknownUser | Self::UnknownGroup => ErrorCode::NotFound,
            Self::AlreadyExists => ErrorCode::AlreadyExists,
            Self::PermissionDenied => ErrorCode::PermissionDenied,
            Self::NoSpace | Self::TooLarge | Self::ResourceLimit => ErrorCode::ResourceExhausted,
            Self::Incomplete => ErrorCode::Aborted,
            Self::ConnectionRefused | Self::ConnectionReset => ErrorCode::Unavailable,
            Self::TimedOut => ErrorCode::DeadlineExceeded,
            Self::Unsupported => ErrorCode::Unimplemented,
            Self::NotADirectory
            | Self::IsADirectory
            | Self::NotAFile
            | Self::NotEmpty
            | Self::ReadOnly
            | Self::NameTooLong
            | Self::LinkLoop
            | Self::CrossDevice
            | Self::Busy
            | Self::NotItsMachine => ErrorCode::FailedPrecondition,
            Self::Other => ErrorCode::Unknown,
        }
    }
}

impl From<Refusal> for ConnectError {
    fn from(refusal: Refusal) -> Self {
        let detail =
            wire::Refusal { code: refusal.kind.code().to_owned(), ..wire::Refusal::default() };
        Self::new(refusal.kind.connect_code(), refusal.detail)
            .with_detail(ErrorDetail::from_message(REFUSAL_TYPE, &detail))
    }
}

/// Reads a refusal out of an error; `None` if the error is no refusal of an agent.
#[must_use]
pub fn refusal(error: &ConnectError) -> Option<Refusal> {
    use base64::Engine as _;
    use buffa::Message as _;
    let detail = error.details.iter().find(|it| it.type_url.ends_with(REFUSAL_TYPE))?;
    let text = detail.value.as_ref()?.trim_end_matches('=');
    let bytes = base64::engine::general_purpose::STANDARD_NO_PAD.decode(text).ok()?;
    let wire = wire::Refusal::decode_from_slice(&bytes).ok()?;
    Some(Refusal {
        kind: RefusalKind::from_code(&wire.code),
        detail: error.message.clone().unwrap_or_else(|| wire.code.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_survives_the_wire() {
        for kind in RefusalKind::ALL {
            let sent = Refusal::new(*kind, "`/a` is not there");
            assert_eq!(refusal(&ConnectError::from(sent.clone())), Some(sent));
        }
    }

    #[test]
    fn another_error_is_no_refusal() {
        assert_eq!(refusal(&ConnectError::not_found("no process 7")), None);
    }
}
