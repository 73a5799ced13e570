//! One repository of a registry, for whoever fetches or sends artifacts instead of images.

use super::{
    manifest::IMAGE_MANIFEST_TYPE,
    origin::ImageReference,
    registry::{
        FIRST_PAUSE, FRUITLESS_TRIES, RegistryAccess, Source, is_passing, mirrored, passed_over,
    },
    spec::{Descriptor, Digest},
};
use crate::{
    error::{ImageError, OnPath, Result, blocking},
    progress::Progress,
};
use bytes::Bytes;
use futures::{Stream, stream};
use oci_client::errors::OciDistributionError;
use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    path::Path,
};

/// What is read and sent at once, in bytes.
const PIECE: usize = 1 << 20;

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

    /// Sends a blob, unless it is there; whether it was sent. One that breaks off is sent again, some
    /// times.
    pub(crate) async fn send(
        &self,
        digest: &Digest,
        size: u64,
        file: File,
        progress: &dyn Progress,
    ) -> Result<bool> {
        let named = digest.to_string();
        let mut tries = 0;
        loop {
            let broken = match self.send_once(&named, &file).await {
                Ok(sent) => {
                    progress.advance(size);
                    return Ok(sent);
                }
                Err(error) => error,
            };
            tries += 1;
            if tries >= FRUITLESS_TRIES || !is_passing(&broken) {
                return Err(broken);
            }
            tracing::debug!(%digest, error = %broken, "an upload broke off");
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(tries)).await;
        }
    }

    async fn send_once(&self, digest: &str, file: &File) -> Result<bool> {
        let Source { client, reference, auth, .. } = &self.0;
        let failed = |error: OciDistributionError| self.0.failed(&error);
        // Asks for the right to write at once, so that a registry is asked for a login once.
        let operation = oci_client::RegistryOperation::Push;
        client.store_auth_if_needed(self.0.host(), auth).await;
        client.auth(reference, auth, operation).await.map_err(failed)?;
        if client.blob_exists(reference, digest).await.map_err(failed)? {
            return Ok(false);
        }
        let mut again = file.try_clone().on("read", Path::new(digest))?;
        again.rewind().on("read", Path::new(digest))?;
        let bytes = Box::pin(pieces(again));
        client.push_blob_stream(reference, bytes, digest, None).await.map_err(failed)?;
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

/// A file's bytes, piece by piece, read where the runtime is not held up.
fn pieces(file: File) -> impl Stream<Item = Result<Bytes, OciDistributionError>> + Send + 'static {
    stream::try_unfold(file, |mut file| async move {
        let read = blocking(move || {
            let mut piece = Vec::with_capacity(PIECE);
            let read = (&mut file).take(PIECE as u64).read_to_end(&mut piece);
            read.on("read", Path::new("what is sent"))?;
            Ok((piece, file))
        });
        let (piece, file) = read
            .await
            .map_err(|error: ImageError| OciDistributionError::from(io::Error::other(error)))?;
        Ok((!piece.is_empty()).then(|| (Bytes::from(piece), file)))
    })
}
