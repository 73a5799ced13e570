//! Sends one blob to a registry, piece by piece, and goes on where it was when the way breaks off (OCI
//! distribution specification 1.1, "Pushing a blob in chunks").
//!
//! `oci-client` can send in pieces too, but not go on. It still does the rest: it logs in, and says
//! where the registry is. A login goes to the registry's own host alone, wherever an upload leads.

use super::registry::{FIRST_PAUSE, FRUITLESS_TRIES, is_loopback, with_causes};
use crate::{
    error::{ImageError, OnPath, Result, blocking},
    progress::Progress,
};
use http::{HeaderMap, StatusCode, header};
use oci_client::{Reference, secrets::RegistryAuth};
use reqwest::{Method, RequestBuilder, Response, Url};
use std::{fs::File, os::unix::fs::FileExt as _, path::Path};

/// What is sent at once, in bytes: more than the smallest piece that registries ask for.
const PIECE_BYTES: u64 = 16 << 20;

/// A registry to send to.
pub(super) struct Uploads<'a> {
    http: &'a reqwest::Client,
    reference: &'a Reference,
    login: RegistryAuth,
}

/// How far an upload has come, and where it goes on.
struct Session {
    location: Url,
    at: u64,
}

impl<'a> Uploads<'a> {
    /// To the host of `reference`, as the bearer of `token` where the registry gave one, else with
    /// `auth` as it is.
    pub(super) fn new(
        http: &'a reqwest::Client,
        reference: &'a Reference,
        auth: &RegistryAuth,
        token: Option<String>,
    ) -> Self {
        let login = token.map_or_else(|| auth.clone(), RegistryAuth::Bearer);
        Self { http, reference, login }
    }

    /// Sends a blob of `size` bytes.
    pub(super) async fn send(
        &self,
        digest: &str,
        size: u64,
        file: &File,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut session = self.begin().await?;
        let (mut told, mut fruitless) = (0, 0);
        loop {
            let broken = match self.rest(&mut session, digest, size, file).await {
                Ok(true) => return Ok(()),
                Ok(false) => None,
                Err(error) => Some(error),
            };
            if let Some(error) = broken {
                let passing = matches!(error, ImageError::RegistryFailed { .. });
                fruitless += 1;
                if fruitless >= FRUITLESS_TRIES || !passing {
                    return Err(error);
                }
                tracing::debug!(digest, at = session.at, %error, "an upload broke off");
                tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(fruitless)).await;
                session = match self.stand(&session).await? {
                    Some(session) => session,
                    None => self.begin().await?,
                };
            }
            if session.at > told {
                progress.advance(session.at - told);
                (told, fruitless) = (session.at, 0);
            }
        }
    }

    /// Sends one more piece, or ends the upload when all is sent; whether it is over.
    async fn rest(
        &self,
        session: &mut Session,
        digest: &str,
        size: u64,
        file: &File,
    ) -> Result<bool> {
        if session.at >= size {
            let mut end = session.location.clone();
            end.query_pairs_mut().append_pair("digest", digest);
            let request = self.request(Method::PUT, end).header(header::CONTENT_LENGTH, 0);
            self.answer(request, StatusCode::CREATED).await?;
            return Ok(true);
        }
        let bytes = PIECE_BYTES.min(size - session.at);
        let piece = read(file, session.at, bytes).await?;
        let range = format!("{}-{}", session.at, session.at + bytes - 1);
        let request = self
            .request(Method::PATCH, session.location.clone())
            .header(header::CONTENT_RANGE, range)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(piece);
        let answer = self.answer(request, StatusCode::ACCEPTED).await?;
        session.at += bytes;
        session.location = self.location(&answer, Some(&session.location))?;
        Ok(false)
    }

    async fn begin(&self) -> Result<Session> {
        let host = self.reference.resolve_registry();
        let scheme = if is_loopback(host) { "http" } else { "https" };
        let url = format!("{scheme}://{host}/v2/{}/blobs/uploads/", self.reference.repository());
        let url = Url::parse(&url).map_err(|error| failed(self.reference, &error))?;
        let request = self.request(Method::POST, url).header(header::CONTENT_LENGTH, 0);
        let answer = self.answer(request, StatusCode::ACCEPTED).await?;
        Ok(Session { location: self.location(&answer, None)?, at: 0 })
    }

    /// How far the registry says that an upload has come; none where it has forgotten it.
    async fn stand(&self, session: &Session) -> Result<Option<Session>> {
        let request = self.request(Method::GET, session.location.clone());
        let Ok(answer) = self.answer(request, StatusCode::NO_CONTENT).await else {
            return Ok(None);
        };
        let at = came(answer.headers());
        let location = self.location(&answer, Some(&session.location))?;
        Ok(at.map(|at| Session { location, at }))
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let own = Url::parse(&format!("x://{}", self.reference.resolve_registry())).ok();
        let same_host = own.is_some_and(|own| own.host_str() == url.host_str());
        let request = self.http.request(method, url);
        match &self.login {
            RegistryAuth::Basic(name, password) if same_host => {
                request.basic_auth(name, Some(password))
            }
            RegistryAuth::Bearer(token) if same_host => request.bearer_auth(token),
            _ => request,
        }
    }

    async fn answer(&self, request: RequestBuilder, wanted: StatusCode) -> Result<Response> {
        let answer = request.send().await.map_err(|error| failed(self.reference, &error))?;
        let (host, image) = named(self.reference);
        match answer.status() {
            status if status == wanted => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(ImageError::RegistryDenied { host, image })
            }
            status => {
                let detail = format!("an upload was answered with {status}");
                Err(ImageError::RegistryFailed { host, image, detail })
            }
        }
    }

    /// Where an upload goes on: an address, or a path at the same host.
    fn location(&self, answer: &Response, before: Option<&Url>) -> Result<Url> {
        let told = answer.headers().get(header::LOCATION).and_then(|it| it.to_str().ok());
        let joined = match (told, before) {
            (Some(told), _) => answer.url().join(told).ok(),
            (None, Some(before)) => Some(before.clone()),
            (None, None) => None,
        };
        joined.ok_or_else(|| {
            let (host, image) = named(self.reference);
            let detail = "the registry does not say where to send a blob to".to_owned();
            ImageError::RegistryFailed { host, image, detail }
        })
    }
}

/// How many bytes a registry has, as its `Range: 0-LAST` tells. Registries write `0-0` for none.
fn came(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::RANGE)?.to_str().ok()?;
    let last: u64 =
        range.strip_prefix("bytes=").unwrap_or(range).strip_prefix("0-")?.parse().ok()?;
    Some(if last == 0 { 0 } else { last + 1 })
}

async fn read(file: &File, at: u64, bytes: u64) -> Result<Vec<u8>> {
    let what = Path::new("what is sent");
    let file = file.try_clone().on("read", what)?;
    blocking(move || {
        let mut piece = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut piece, at).on("read", what)?;
        Ok(piece)
    })
    .await
}

fn named(reference: &Reference) -> (String, String) {
    (reference.resolve_registry().to_owned(), reference.whole())
}

fn failed(reference: &Reference, error: &(dyn std::error::Error + 'static)) -> ImageError {
    let (host, image) = named(reference);
    ImageError::RegistryFailed { host, image, detail: with_causes(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_has_is_read_from_its_range() {
        let range = |text: &'static str| {
            let value = header::HeaderValue::from_static(text);
            came(&[(header::RANGE, value)].into_iter().collect())
        };
        assert_eq!(range("0-0"), Some(0));
        assert_eq!(range("0-99"), Some(100));
        assert_eq!(range("bytes=0-99"), Some(100));
        assert_eq!((range("5-9"), range("x")), (None, None));
    }
}
