//! The crate's one error: why a request cannot be answered as asked.

use crate::{placement::NoPlace, problem::FieldError};
use aetherium_model::{Code, Fault, limits::MAX_BODY_BYTES};
use std::{fmt, time::Duration};

/// Why a request cannot be answered as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields with values that are not allowed, or that nobody knows.
    #[error("{}", list(errors))]
    Invalid {
        /// Each field, and what is wrong with it.
        errors: Vec<FieldError>,
    },
    /// A request that could not be read.
    #[error("{0}")]
    Malformed(String),
    /// A body that does not say it is JSON.
    #[error("the request body is {given}, not application/json")]
    NotJson {
        /// The content type as given.
        given: String,
    },
    /// A body over the limit.
    #[error("the request body is larger than {MAX_BODY_BYTES} bytes")]
    BodyTooLarge,
    /// No API key, or not a known one.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// No such thing.
    #[error("there is no {what} {id:?}")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// As it was asked for.
        id: String,
    },
    /// A field that names what does not exist.
    #[error("{field}: there is no {what} {id:?}")]
    Unknown {
        /// The field.
        field: &'static str,
        /// What kind of thing it names.
        what: &'static str,
        /// As it was named.
        id: String,
    },
    /// No such route.
    #[error("there is no route {path:?}")]
    NoRoute {
        /// The path as asked for.
        path: String,
    },
    /// The route does not have this method.
    #[error("{path:?} does not take {method}")]
    MethodNotAllowed {
        /// The path.
        path: String,
        /// The method.
        method: http::Method,
    },
    /// No worker can take it.
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
    /// The handler did not answer in time.
    #[error("the request was not answered within {0:?}")]
    Deadline(Duration),
    /// Too many event streams or WebSockets at once.
    #[error("all {0} streams are in use")]
    StreamsExhausted(usize),
    /// The gateway is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// Anything that already speaks in faults: the store, the queue, a worker.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// A defect.
    #[error("{0}")]
    Defect(String),
}

impl Error {
    /// One field that is not allowed.
    pub(crate) fn field(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        let error = FieldError { field: field.into(), problem: problem.to_string() };
        Self::Invalid { errors: vec![error] }
    }
}

impl Error {
    /// Whether it would be otherwise once somebody makes room.
    pub(crate) fn is_want_of_room(&self) -> bool {
        matches!(self, Self::NoPlace(_))
            || matches!(self, Self::Fault(fault) if fault.code == Code::NoCapacity)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let fault = |code, remedy: &str| Self::new(code, error.to_string()).remedy(remedy);
        match &error {
            Error::Invalid { .. } => fault(
                Code::InvalidRequest,
                "correct the named fields; GET /api/v1/openapi.json lists those there are",
            ),
            Error::Malformed(_) => {
                fault(Code::MalformedRequest, "send the request whole and as JSON")
            }
            Error::NotJson { .. } => {
                fault(Code::UnsupportedMediaType, "send the header Content-Type: application/json")
            }
            Error::BodyTooLarge => fault(Code::PayloadTooLarge, "send less at once"),
            Error::Unauthorized(_) => fault(
                Code::Unauthorized,
                "send the header Authorization: Bearer KEY, or X-API-Key: KEY",
            ),
            Error::NotFound { .. } | Error::Unknown { .. } => {
                fault(Code::NotFound, "list what there is, and use its id")
            }
            Error::NoRoute { .. } => {
                fault(Code::NotFound, "GET /api/v1/openapi.json lists the routes")
            }
            Error::MethodNotAllowed { .. } => {
                fault(Code::MethodNotAllowed, "use a method that the Allow header names")
            }
            Error::NoPlace(reason) => fault(Code::NoCapacity, &reason.remedy()),
            Error::Deadline(_) => {
                fault(Code::DeadlineExceeded, "try again; if it stays, see /ready")
            }
            Error::StreamsExhausted(_) => fault(Code::Busy, "close streams, or try again later"),
            Error::Stopping => fault(Code::Unavailable, "try again, once it runs"),
            Error::Fault(inner) => inner.clone(),
            Error::Defect(_) => Self::internal(&error),
        }
    }
}

fn list(errors: &[FieldError]) -> String {
    let each: Vec<_> = errors.iter().map(|e| format!("{}: {}", e.field, e.problem)).collect();
    each.join("; ")
}

impl From<aetherium_store::StoreError> for Error {
    fn from(error: aetherium_store::StoreError) -> Self {
        Self::Fault(error.into())
    }
}
