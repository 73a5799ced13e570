//! How a failed request is answered: `application/problem+json` (RFC 9457), and the one map from
//! codes to HTTP statuses.
//!
//! Handlers answer with [`crate::Error`]; the response carries a [`Draft`] that only the outermost
//! layer turns into bytes, because only there the request id is known. Nothing else writes problems.

use crate::Error;
use aetherium_model::{Code, Fault, setup::Objection};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

/// One field of a request that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FieldError {
    /// The field's path, such as `env.PATH` or `argv[0]`; a query parameter's or header's name.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl From<Objection> for FieldError {
    fn from(Objection { field, problem }: Objection) -> Self {
        Self { field, problem }
    }
}

/// The body of every answer with a status of 400 and above.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// The code as a URN.
    #[serde(rename = "type")]
    #[schema(example = "urn:aetherium:problem:not_found")]
    pub kind: String,
    /// What the code means.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: Code,
    /// What happened, with the values that matter.
    pub detail: String,
    /// What to do about it; empty where nothing needs doing.
    pub remedy: String,
    /// The request's id, under which the server's log speaks of it.
    pub request_id: String,
    /// The fields that are not allowed, with code `invalid_request`; with `not_found`, the one that names it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The lines that decided the verdict, such as those of a guest's console.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
}

/// The HTTP status of a code. Codes that only ever describe how work ended are defects when a
/// request fails with them, unless they name a state the caller ran into.
pub const fn status(code: Code) -> StatusCode {
    match code {
        Code::MalformedRequest => StatusCode::BAD_REQUEST,
        Code::InvalidRequest => StatusCode::UNPROCESSABLE_ENTITY,
        Code::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::Unauthorized => StatusCode::UNAUTHORIZED,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::Conflict | Code::IdempotencyMismatch | Code::Cancelled | Code::VmGone => {
            StatusCode::CONFLICT
        }
        Code::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::QuotaExceeded => StatusCode::TOO_MANY_REQUESTS,
        Code::Busy
        | Code::NoCapacity
        | Code::Unavailable
        | Code::WorkerLost
        | Code::SecretUnreadable => StatusCode::SERVICE_UNAVAILABLE,
        Code::CommandNotFound
        | Code::CommandNotExecutable
        | Code::SpawnFailed
        | Code::SecretMissing
        | Code::SecretNotDelivered => StatusCode::UNPROCESSABLE_ENTITY,
        Code::AgentLost | Code::AgentSilent | Code::Interrupted => StatusCode::BAD_GATEWAY,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A problem that waits for its request id, carried as an extension of its response.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) fault: Fault,
    pub(crate) errors: Vec<FieldError>,
}

impl Draft {
    /// The finished response. Details of our own defects go to the log, not to the caller.
    pub(crate) fn render(self, request_id: &str) -> Response {
        let Self { mut fault, errors } = self;
        let status = status(fault.code);
        if fault.code == Code::Internal {
            tracing::error!(request_id, detail = fault.detail, "request failed by a defect");
            fault.detail = "the request failed by a defect in Aetherium".to_owned();
            fault.remedy = format!("read the server's log of request {request_id}, and report it");
            fault.evidence.clear();
        }
        let problem = Problem {
            kind: format!("urn:aetherium:problem:{}", fault.code),
            title: fault.code.meaning().trim().to_owned(),
            status: status.as_u16(),
            code: fault.code,
            detail: fault.detail,
            remedy: fault.remedy,
            request_id: request_id.to_owned(),
            errors,
            evidence: fault.evidence,
        };
        // A struct of strings and numbers always serializes; an empty body would still be honest.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
        match problem.code {
            Code::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Code::Busy | Code::NoCapacity | Code::Unavailable | Code::WorkerLost => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER_S);
            }
            _ => {}
        }
        response
    }
}

/// RFC 9457, section 3.
pub(crate) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");
/// A worker's heartbeat: soon enough to notice one that came back.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("5");

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let errors = match &self {
            Self::Invalid { errors } => errors.clone(),
            Self::Unknown { field, what, id } => {
                let problem = format!("there is no {what} {id:?}");
                vec![FieldError { field: (*field).to_owned(), problem }]
            }
            _ => Vec::new(),
        };
        let fault = Fault::from(self);
        let mut response = status(fault.code).into_response();
        response.extensions_mut().insert(Draft { fault, errors });
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_error_status() {
        for code in Code::ALL {
            let status = status(*code);
            assert!(status.is_client_error() || status.is_server_error(), "{code}: {status}");
        }
    }

    #[tokio::test]
    async fn the_detail_of_a_defect_stays_in_the_log() {
        let draft = Draft { fault: Fault::internal("SELECT secret"), errors: vec![] };
        let response = draft.render("r1");
        assert_eq!(response.status(), 500);
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(!text.contains("SELECT") && text.contains("\"request_id\":\"r1\""), "{text}");
    }
}
