//! Why a call is refused, in Firecracker's words.

use http::StatusCode;

/// A refusal: its status, and what is said as `fault_message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// Whether Firecracker ends after it, as after a snapshot that does not load.
    pub(crate) fatal: bool,
}

impl Refusal {
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), fatal: false }
    }

    pub(crate) fn fatal(message: impl Into<String>) -> Self {
        Self { fatal: true, ..Self::bad_request(message) }
    }

    /// The body is not what the call takes.
    pub(crate) fn body(error: impl std::fmt::Display) -> Self {
        Self::bad_request(format!(
            "An error occurred when deserializing the json body of a request: {error}."
        ))
    }

    pub(crate) fn before_boot() -> Self {
        Self::bad_request("The requested operation is not supported before starting the microVM.")
    }

    pub(crate) fn after_boot() -> Self {
        Self::bad_request("The requested operation is not supported after starting the microVM.")
    }
}
