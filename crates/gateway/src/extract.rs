//! Extractors: what a handler takes is parsed and checked before it runs.
//!
//! A value that is not allowed is named by its path; so is a field, or a query parameter, that
//! nobody knows. Nothing here looks into the store.

use crate::{Error, api::Check};
use aetherium_model::{
    DeliveryId, EnvironmentId, ExecutionId, Name, PromptId, TaskId, TemplateRef, VmId, WebhookId,
    WorkerId, WorkspaceId,
    assistant::AssistantName,
    limits::MAX_BODY_BYTES,
    page::{DEFAULT_PAGE, MAX_PAGE, PageRequest},
    project::ProjectId,
    secret::SecretName,
};
use aetherium_store::{Idempotency, MAX_KEY_BYTES};
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use http::{HeaderMap, HeaderValue, Method, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::{str::FromStr, time::Duration};

/// The time a request body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// A JSON body, parsed and checked.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned + Check, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, Error> {
        require_json(request.headers())?;
        let read = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
        let late = |_| Error::Malformed(format!("the body did not arrive within {BODY_TIMEOUT:?}"));
        let body = tokio::time::timeout(BODY_TIMEOUT, read).await.map_err(late)?;
        let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => Error::BodyTooLarge,
            None => Error::Malformed(format!("the body could not be read: {error}")),
        })?;
        let value: T = parse_json(&body.to_bytes())?;
        match value.check() {
            errors if errors.is_empty() => Ok(Self(value)),
            errors => Err(Error::Invalid { errors }),
        }
    }
}

/// A body must say that it is JSON: this also keeps web pages from posting without a preflight.
fn require_json(headers: &HeaderMap) -> Result<(), Error> {
    let given =
        headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("unreadable"));
    let essence = given.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        let given: String = given.unwrap_or("of no stated type").chars().take(80).collect();
        Err(Error::NotJson { given })
    }
}

/// Parses a body; the error names the field, or the line and column where it stops being JSON.
fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    // A struct would also be read from a list of its fields, which no caller means.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(Error::field("body", "must be an object, not a list"));
    }
    let mut parser = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut parser).map_err(|error| {
        let path = error.path().clone();
        let error = error.into_inner();
        if error.is_data() { invalid(&path, &error) } else { not_json(&error) }
    })?;
    parser.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn not_json(error: &serde_json::Error) -> Error {
    Error::Malformed(format!("the body is not JSON: {error}"))
}

fn invalid(path: &serde_path_to_error::Path, error: &impl ToString) -> Error {
    let text = error.to_string();
    // The parser appends where it stood, which says less than the path does.
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    let mut field = path.to_string();
    // The path of a missing field, and of one given twice, ends at the object around it.
    let named = ["missing field `", "duplicate field `"].iter().find_map(|p| text.strip_prefix(p));
    if let Some(name) = named.and_then(|rest| rest.strip_suffix('`')) {
        field = if field == "." { name.to_owned() } else { format!("{field}.{name}") };
    }
    Error::field(if field == "." { "body" } else { &field }, text)
}

/// The query string, parsed and checked.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned + Check, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let pairs = form_pairs(parts.uri.query().unwrap_or_default());
        let parser = serde_urlencoded::Deserializer::new(pairs);
        let value: T = serde_path_to_error::deserialize(parser)
            .map_err(|error| invalid(&error.path().clone(), &error.into_inner()))?;
        match value.check() {
            errors if errors.is_empty() => Ok(Self(value)),
            errors => Err(Error::Invalid { errors }),
        }
    }
}

fn form_pairs(query: &str) -> form_urlencoded::Parse<'_> {
    form_urlencoded::parse(query.as_bytes())
}

/// Makes a page request of the two parameters that every list takes.
pub(crate) fn page(limit: Option<u32>, cursor: Option<String>) -> Result<PageRequest, Error> {
    let limit = limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Error::field("limit", format!("{limit} is not allowed: give 1 to {MAX_PAGE}")));
    }
    Ok(PageRequest { limit, after: cursor })
}

/// A path parameter, found by the name its type says and parsed.
///
/// What does not parse cannot name anything, so it is not found.
pub(crate) struct At<T>(pub(crate) T);

/// What can stand in a path.
pub(crate) trait PathParam: FromStr {
    /// The parameter's name in the route.
    const NAME: &'static str;
}

/// A thing as callers name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ref<Id> {
    Id(Id),
    Name(Name),
}

pub(crate) type WorkspaceRef = Ref<WorkspaceId>;
pub(crate) type EnvironmentRef = Ref<EnvironmentId>;

impl<Id: FromStr> FromStr for Ref<Id> {
    type Err = aetherium_model::name::InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => text.parse().map(Self::Name),
        }
    }
}

impl<Id: FromStr> From<Name> for Ref<Id> {
    fn from(name: Name) -> Self {
        name.as_str().parse().map_or(Self::Name(name), Self::Id)
    }
}

/// The number of an environment's version.
pub(crate) struct VersionNumber(pub(crate) u32);

impl FromStr for VersionNumber {
    type Err = <u32 as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl PathParam for VersionNumber {
    const NAME: &'static str = "version";
}

macro_rules! path_params {
    ($($type:ty = $name:literal;)+) => {$(
        impl PathParam for $type {
            const NAME: &'static str = $name;
        }
    )+};
}

path_params! {
    WorkspaceRef = "workspace";
    EnvironmentRef = "environment";
    SecretName = "secret";
    PromptId = "prompt";
    VmId = "vm";
    ExecutionId = "execution";
    TaskId = "task";
    WorkerId = "worker";
    WebhookId = "webhook";
    DeliveryId = "delivery";
    ProjectId = "project";
    TemplateRef = "template";
    AssistantName = "assistant";
}

/// The name of a disk's snapshot.
pub(crate) struct SnapshotName(pub(crate) Name);

impl FromStr for SnapshotName {
    type Err = <Name as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl PathParam for SnapshotName {
    const NAME: &'static str = "snapshot";
}

impl<T: PathParam, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| Error::NoRoute { path: parts.uri.path().to_owned() })?;
        let Some((_, text)) = params.iter().find(|(name, _)| *name == T::NAME) else {
            return Err(Error::Defect(format!("the route has no parameter {}", T::NAME)));
        };
        let unknown = |_| Error::NotFound { what: T::NAME, id: text.chars().take(80).collect() };
        text.parse().map(Self).map_err(unknown)
    }
}

/// The Idempotency-Key of a request, if it has one, with what else tells requests apart.
pub(crate) struct IdempotencyKey {
    key: Option<String>,
    method: Method,
    path: String,
}

impl IdempotencyKey {
    /// Binds the key to this request: its method, its path, and its body however it was spelled.
    pub(crate) fn bind(self, body: &impl Serialize) -> Result<Option<Idempotency>, Error> {
        let Some(key) = self.key else { return Ok(None) };
        let body = serde_json::to_vec(body).map_err(|e| Error::Defect(e.to_string()))?;
        let mut hash = Sha256::new();
        for part in [self.method.as_str().as_bytes(), self.path.as_bytes(), &body] {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        let hex = |text: String, byte: &u8| text + &format!("{byte:02x}");
        let request_sha256 = hash.finalize().iter().fold(String::new(), hex);
        Ok(Some(Idempotency { key, request_sha256 }))
    }

    /// For what cannot be done at most once: a key must not seem to have been honoured.
    pub(crate) fn refuse(&self, why: &str) -> Result<(), Error> {
        if self.key.is_none() { Ok(()) } else { Err(Error::field("Idempotency-Key", why)) }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let value = parts.headers.get("idempotency-key");
        let sound = |value: &&HeaderValue| {
            (1..=MAX_KEY_BYTES).contains(&value.len())
                && value.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        let key = value.filter(sound).and_then(|value| value.to_str().ok()).map(str::to_owned);
        if value.is_some() && key.is_none() {
            let problem = format!("must be 1 to {MAX_KEY_BYTES} visible ASCII characters");
            return Err(Error::field("Idempotency-Key", problem));
        }
        Ok(Self { key, method: parts.method.clone(), path: parts.uri.path().to_owned() })
    }
}

/// The last event a reader has seen: the Last-Event-ID header, which an automatic reconnect sends,
/// before the parameter `after`, which stays in the address.
pub(crate) fn last_seen(headers: &HeaderMap, after: Option<i64>) -> Result<i64, Error> {
    let (field, seen) = match headers.get("last-event-id") {
        Some(value) => {
            let parsed = value.to_str().ok().and_then(|text| text.trim().parse().ok());
            ("Last-Event-ID", parsed.unwrap_or(-1))
        }
        None => ("after", after.unwrap_or(0)),
    };
    if seen < 0 {
        return Err(Error::field(field, "must be an event's number: a whole number from 0"));
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Outer {
        inner: Inner,
        list: Option<Vec<u8>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Inner {
        size: u8,
    }

    fn refused(body: &str) -> String {
        parse_json::<Outer>(body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_field_is_named_by_its_path_whatever_is_wrong_with_it() {
        let cases = [
            (r#"{"inner":{"size":1,"sise":2}}"#, "inner.sise: unknown field"),
            (r#"{"inner":{"size":300}}"#, "inner.size: invalid value"),
            (r#"{"inner":{}}"#, "inner.size: missing field"),
            (r#"{}"#, "inner: missing field"),
            (r#"{"inner":{"size":1},"list":[1,"x"]}"#, "list[1]: invalid type"),
            ("[]", "body: must be an object"),
            ("3", "body: invalid type"),
        ];
        for (body, expected) in cases {
            let text = refused(body);
            assert!(text.starts_with(expected), "{body}: {text}");
        }
    }

    #[test]
    fn what_is_not_json_is_told_by_line_and_column() {
        for body in ["", "{", "{\"inner\":", "{} {}", "nope", "\u{feff}{}"] {
            let text = match parse_json::<serde_json::Value>(body.as_bytes()) {
                Err(Error::Malformed(text)) => text,
                other => panic!("{body:?}: {other:?}"),
            };
            assert!(text.contains("line 1 column"), "{body:?}: {text}");
        }
    }
}
