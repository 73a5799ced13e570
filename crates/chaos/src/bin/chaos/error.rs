//! What keeps a run from being made. What the fleet does wrong is no error of the runner.

use std::{fmt::Display, io, time::Duration};

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot {deed} {what}: {source}")]
    Io { deed: &'static str, what: String, source: io::Error },
    #[error("`{command}` ended with {status}: {said}")]
    Command { command: String, status: String, said: String },
    #[error("the database cannot be asked: {0}")]
    Database(#[from] sqlx::Error),
    #[error("{what} within {waited:?}; the logs are in the directory of the run")]
    TooLate { what: String, waited: Duration },
    #[error("a gateway answered {status} to {request}: {said}")]
    Refused { request: String, status: u16, said: String },
    #[error("the HTTP client cannot be made: {0}")]
    Client(#[from] reqwest::Error),
}

impl Error {
    /// For `map_err`.
    pub(crate) fn io(deed: &'static str, what: impl Display) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Io { deed, what, source }
    }
}
