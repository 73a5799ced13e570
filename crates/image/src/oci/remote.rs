//! One repository of a registry, for whoever fetches or sends artifacts instead of images.

use super::{
    access::RegistryAccess,
    manifest::IMAGE_MANIFEST_TYPE,
    origin::ImageReference,
    registry::{Source, mirrored, passed_over},
    spec::{Descriptor, Digest},
    upload::Uploads,
};
use crate::{error::Result, progress::Progress};
use oci_client::{RegistryOperation, errors::OciDistributionError};
use std::fs::File;

/// A repository.
pub(crate) struct Remote<'a>(Source<'a>);

impl<'a> Remote<'a> {
    /// The repository itself, to send to.
    pub(crate) fn open(
        reference: &ImageReference,
        access: &'a RegistryAccess,
        progress: &dyn Progress,
    ) -> Result<Self> {
        Source::new(reference.0.clone(), access, progress).map(Self)
    }

    /// The first of its mirrors, or the repository itself, that has what the reference names; and the
    /// manifest.
    pub(crate) async fn ask(
        reference: &ImageReference,
        access: &'a RegistryAccess,
        progress: &dyn Progress,
    ) -> Result<(Self, Vec<u8>)> {
        for (host, mirror) in mirrored(reference, access) {
            let source = Source::new(mirror, access, progress)?;
            match source.manifest_bytes().await {
                Ok(bytes) => return Ok((Self(source), bytes)),
                Err(error) => progress.warn(&passed_over(&host, reference, &error)),
            }
        }
        let source = Source::new(reference.0.clone(), access, progress)?;
        let bytes = source.manifest_bytes().await?;
        Ok((Self(source), bytes))
    }

    /// A blob, from the cache or the host; its digest is checked.
    pub(crate) async fn fetch(
        &self,
        digest: &Digest,
        size: u64,
        progress: &dyn Progress,
    ) -> Result<File> {
        self.0.blob(&Descriptor::of(digest.clone(), size), progress).await
    }

    /// Sends a blob, unless it is there; whether it was sent.
    pub(crate) async fn send(
        &self,
        digest: &Digest,
        size: u64,
        file: &File,
        progress: &dyn Progress,
    ) -> Result<bool> {
        let Source { client, http, reference, auth, .. } = &self.0;
        let failed = |error: OciDistributionError| self.0.failed(&error);
        let operation = RegistryOperation::Push;
        let token = client.auth(reference, auth, operation).await.map_err(failed)?;
        let named = digest.to_string();
        if client.blob_exists(reference, &named).await.map_err(failed)? {
            progress.advance(size);
            return Ok(false);
        }
        let uploads = Uploads::new(http, reference, auth, token);
        uploads.send(&named, size, file, progress).await?;
        Ok(true)
    }

    /// Sends the manifest, which makes what was sent before an artifact.
    pub(crate) async fn send_manifest(&self, bytes: &[u8]) -> Result<()> {
        let Source { client, reference, auth, .. } = &self.0;
        client.store_auth_if_needed(self.0.host(), auth).await;
        let kind = http::HeaderValue::from_static(IMAGE_MANIFEST_TYPE);
        let sent = client.push_manifest_raw(reference, bytes.to_vec(), kind).await;
        sent.map(drop).map_err(|error| self.0.failed(&error))
    }
}
