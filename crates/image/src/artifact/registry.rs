//! A template as an artifact in an OCI registry.

use super::{
    Packing, Placement, pack_all,
    spec::{ArtifactManifest, digest_of},
    take::{Offer, budget},
};
use crate::{
    error::{OnPath, Result, blocking},
    oci::{ImageReference, RegistryAccess, Remote},
    progress::Progress,
    staging::{NameLock, Staging},
    store::{InstalledTemplate, TemplateStore},
};
use aetherium_model::{Digest, Name, TemplateRef};
use serde::Serialize;
use std::{io::Read as _, path::Path, time::Duration};

/// How long another pull or build of the same name is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(1800);

/// What a push has sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pushed {
    /// Where it can be pulled from.
    pub image: String,
    /// The digest of the artifact's manifest, by which others may pull it.
    pub manifest: Digest,
    /// The template's digest.
    pub template: Digest,
    /// Bytes of files that were sent.
    pub sent_bytes: u64,
    /// Bytes of files that the registry had already.
    pub there_bytes: u64,
}

/// Sends a template to a registry, under the tag of `to`. What the registry has already is not sent
/// again, so that a push which was broken off goes on with the next.
///
/// # Errors
/// [`ImageError::NotFound`](crate::ImageError::NotFound) without the template; else what the registry
/// said.
pub async fn push(
    store: &TemplateStore,
    wanted: &TemplateRef,
    to: &ImageReference,
    access: &RegistryAccess,
    progress: &dyn Progress,
) -> Result<Pushed> {
    let template = store.get(wanted)?;
    let artifact = pack_all(store, &template, wanted, Packing::Gzip, progress).await?;
    let remote = Remote::open(to, access, progress)?;
    let sizes = artifact.layers.iter().map(|it| it.descriptor.size);
    progress.total("pushing", Some(sizes.sum()));
    let (mut sent_bytes, mut there_bytes) = (0, 0);
    for layer in artifact.layers {
        let (digest, size) = (layer.descriptor.digest, layer.descriptor.size);
        match remote.send(&digest, size, &layer.file, progress).await? {
            true => sent_bytes += size,
            false => there_bytes += size,
        }
    }
    progress.done();
    let mut config = tempfile::tempfile_in(store.dir()).on("make a file in", store.dir())?;
    std::io::Write::write_all(&mut config, &artifact.config).on("write", store.dir())?;
    let digest = &artifact.manifest.config.digest;
    remote.send(digest, artifact.config.len() as u64, &config, &crate::Silent).await?;
    let manifest = artifact.manifest.bytes(&to.to_string())?;
    remote.send_manifest(&manifest).await?;
    Ok(Pushed {
        image: to.to_string(),
        manifest: digest_of(&manifest),
        template: template.digest()?,
        sent_bytes,
        there_bytes,
    })
}

/// Gets a template from a registry, its mirrors first. Downloads go on where they were broken off, and
/// come from the cache where they can; the template comes whole or not at all.
///
/// # Errors
/// [`ImageError::AlreadyExists`](crate::ImageError::AlreadyExists) where the name is another
/// template's and is not to be replaced; else what the registry said, or what is wrong with what it
/// gave.
pub async fn pull(
    store: &TemplateStore,
    from: &ImageReference,
    access: &RegistryAccess,
    place: &Placement,
    progress: &dyn Progress,
) -> Result<InstalledTemplate> {
    let what = from.to_string();
    let (remote, bytes) = Remote::ask(from, access, progress).await?;
    let manifest = ArtifactManifest::parse(&what, &bytes)?;
    let (name, tag): (Name, Name) = place.decide(manifest.told_name(), &what)?;
    let mut config = Vec::new();
    let (digest, size) = (manifest.config.digest.clone(), manifest.config.size);
    let mut file = remote.fetch(&digest, size, &crate::Silent).await?;
    file.read_to_end(&mut config).on("read", Path::new("configuration"))?;
    let mut offer = Offer::read(&what, manifest, config, (name.clone(), tag))?;
    let lock = NameLock::acquire(store.dir(), &name, LOCK_PATIENCE).await?;
    offer.refuse_if_taken(store, place.replace)?;
    let mut staging = blocking(move || Staging::new(lock)).await?;
    let layers = offer.layers()?;
    progress.total("pulling", Some(layers.iter().map(|(_, layer)| layer.size).sum()));
    let mut left = budget();
    for (file, layer) in layers {
        let bytes = remote.fetch(&layer.digest, layer.size, progress).await?;
        (staging, offer, left) = blocking(move || {
            offer.unpack(staging.path(), &file, &layer, bytes, &mut left)?;
            Ok((staging, offer, left))
        })
        .await?;
    }
    progress.done();
    let store = store.clone();
    blocking(move || offer.commit(&store, staging)).await
}
