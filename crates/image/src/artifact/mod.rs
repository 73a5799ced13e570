//! Templates on their way from one store to another: as one file, or through an OCI registry.
//!
//! ```text
//! store ─► pack: each file a sparse tar, packed ─► artifact ─┬─► export: an OCI image layout in a tar file
//!                                                          └─► push: blobs and a manifest of a registry
//! store ◄─ commit ◄─ take: unpack, check every digest ◄────┬── import
//!                                                          └── pull
//! ```
//! Both ways carry the same artifact (OCI image specification 1.1, "Guidelines for Artifact Usage"):
//! its configuration is the template's manifest, byte for byte, so that its digest is the template's;
//! each layer is one file. Tools that know OCI can copy, sign and inspect it.
//!
//! What comes in is a stranger's. It passes through [`crate::layers`], which keeps it inside a directory
//! and within limits, and it counts for nothing before its digest is that of the manifest.

mod archive;
mod pack;
mod registry;
mod spec;
mod take;

#[cfg(test)]
mod tests;

pub use archive::{export, export_to, import};
pub use registry::{Pushed, pull, push};
pub use spec::Packing;

use crate::{
    error::{ImageError, OnPath, Result, blocking},
    progress::Progress,
    store::{InstalledTemplate, TemplateStore},
};
use aetherium_model::{Name, TemplateRef, template_ref::Version};
use pack::Packed;
use spec::ArtifactManifest;

/// Under which name a template is taken in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// The name and tag; those it was sent under where absent.
    pub name: Option<TemplateRef>,
    /// Whether the tag may have pointed to another template.
    pub replace: bool,
}

impl Placement {
    /// The name and the tag, given those that the artifact tells of.
    fn decide(&self, told: Option<TemplateRef>, what: &str) -> Result<(Name, Name)> {
        let place = self.name.clone().or(told).ok_or_else(|| ImageError::ImageUnusable {
            image: what.to_owned(),
            detail: "it does not say what the template is called: give a name".to_owned(),
        })?;
        match place.version {
            Version::Tag(tag) => Ok((place.name, tag)),
            Version::Digest(_) => Err(ImageError::NotATag { template: place }),
        }
    }
}

/// A template as an artifact, with its layers in files that have no names.
struct Artifact {
    manifest: ArtifactManifest,
    config: Vec<u8>,
    layers: Vec<Packed>,
}

/// Packs a template. `told_as` is the name that it shall be known by elsewhere.
async fn pack_all(
    store: &TemplateStore,
    template: &InstalledTemplate,
    told_as: &TemplateRef,
    packing: Packing,
    progress: &dyn Progress,
) -> Result<Artifact> {
    let config = store.manifest_bytes(template)?;
    let total = template.manifest.files().map(|file| file.size).sum();
    progress.total("packing", Some(total));
    let mut layers: Vec<Packed> = Vec::new();
    for file in template.manifest.files() {
        let (path, name) = (template.path_of(file), file.file.clone());
        let dir = store.dir().to_owned();
        let pack = move || pack::pack(&path, &name, &dir, packing).on("pack", &path);
        layers.push(blocking(pack).await?);
        progress.advance(file.size);
    }
    progress.done();
    let descriptors = layers.iter().map(|it| it.descriptor.clone()).collect();
    let manifest = ArtifactManifest::of(&template.manifest, told_as, &config, descriptors);
    Ok(Artifact { manifest, config, layers })
}
