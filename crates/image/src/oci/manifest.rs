//! Gets a manifest of a registry, at most so much of it as a document may have.
//!
//! `oci-client` takes an answer of any length into memory, so this one request is made here; it gets
//! its token from that crate. Nothing is believed of a manifest here but its digest, where one was
//! asked for.

use super::spec::{MAX_DOCUMENT_BYTES, unusable};
use crate::{
    digest,
    error::{ImageError, Result},
};
use futures::StreamExt as _;
use oci_client::{Reference, secrets::RegistryAuth};
use reqwest::{Response, StatusCode, header};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// One image or artifact, not an index of several.
pub(super) const IMAGE_MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";
/// All of a manifest: 4 MiB over a slow line.
pub(super) const DEADLINE: Duration = Duration::from_secs(120);
/// What of a refusal an error repeats.
const SAID_CHARS: usize = 200;

/// Where manifests of one image come from.
pub(super) struct Manifests<'a> {
    pub(super) http: &'a reqwest::Client,
    /// Whether the host is spoken to in plain HTTP.
    pub(super) plain: bool,
    /// What the host is shown.
    pub(super) auth: RegistryAuth,
    /// How errors speak of the image.
    pub(super) name: &'a str,
}

impl Manifests<'_> {
    /// The bytes of a manifest. Whoever calls sees to a deadline.
    pub(super) async fn get(&self, reference: &Reference) -> Result<Vec<u8>> {
        let request = self.http.get(self.url(reference)).header(header::ACCEPT, MANIFEST_TYPES);
        let request = match &self.auth {
            RegistryAuth::Anonymous => request,
            RegistryAuth::Basic(user, password) => request.basic_auth(user, Some(password)),
            RegistryAuth::Bearer(token) => request.bearer_auth(token),
        };
        let host = reference.resolve_registry();
        let failed =
            |error: reqwest::Error| self.failed(host, super::registry::with_causes(&error));
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let bytes = self.bounded(answer).await.map_err(|error| match error {
            Cut::TooLong => unusable(
                self.name,
                format!("its manifest at {host} is larger than {MAX_DOCUMENT_BYTES} bytes"),
            ),
            Cut::Broken(error) => failed(error),
        })?;
        let image = || (host.to_owned(), self.name.to_owned());
        match status {
            StatusCode::OK => self.checked(reference, bytes),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let (host, image) = image();
                Err(ImageError::RegistryDenied { host, image })
            }
            StatusCode::NOT_FOUND => {
                let (host, image) = image();
                Err(ImageError::ImageMissing { host, image })
            }
            _ => {
                let said: String =
                    String::from_utf8_lossy(&bytes).chars().take(SAID_CHARS).collect();
                Err(self.failed(host, format!("it answered {status}: {}", said.trim())))
            }
        }
    }

    fn url(&self, reference: &Reference) -> String {
        let (scheme, host) =
            (if self.plain { "http" } else { "https" }, reference.resolve_registry());
        let wanted = reference.digest().or(reference.tag()).unwrap_or("latest");
        // A mirror of several registries is told which is meant.
        let namespace = reference.namespace().map(|it| format!("?ns={it}")).unwrap_or_default();
        format!("{scheme}://{host}/v2/{}/manifests/{wanted}{namespace}", reference.repository())
    }

    async fn bounded(&self, answer: Response) -> Result<Vec<u8>, Cut> {
        if answer.content_length().is_some_and(|bytes| bytes > MAX_DOCUMENT_BYTES) {
            return Err(Cut::TooLong);
        }
        let (mut bytes, mut pieces) = (Vec::new(), answer.bytes_stream());
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(Cut::Broken)?;
            if (bytes.len() + piece.len()) as u64 > MAX_DOCUMENT_BYTES {
                return Err(Cut::TooLong);
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    fn checked(&self, reference: &Reference, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let found = format!("sha256:{}", digest::hex(&Sha256::digest(&bytes)));
        match reference.digest() {
            Some(wanted) if wanted != found => {
                let host = reference.resolve_registry();
                let detail = format!("{host} gave manifest {found} where {wanted} was asked for");
                Err(unusable(self.name, detail))
            }
            _ => Ok(bytes),
        }
    }

    fn failed(&self, host: &str, detail: String) -> ImageError {
        ImageError::RegistryFailed { host: host.to_owned(), image: self.name.to_owned(), detail }
    }
}

/// Why a document did not come whole.
enum Cut {
    TooLong,
    Broken(reqwest::Error),
}
