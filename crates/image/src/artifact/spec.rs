//! The documents of a template's artifact.

use crate::{
    digest::hex,
    error::{ImageError, Result},
};
use aetherium_model::{Digest, TemplateRef, Timestamp, template::Template};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// What the artifact is, to registries and tools.
const ARTIFACT: &str = "application/vnd.aetherium.template.v1";
/// Its configuration: the template's manifest.
const CONFIG: &str = "application/vnd.aetherium.template.manifest.v1+json";
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

const TITLE: &str = "org.opencontainers.image.title";
const CREATED: &str = "org.opencontainers.image.created";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What the template was called where it comes from.
const NAME: &str = "dev.aetherium.template.name";
/// What its root filesystem was made of.
const ORIGIN: &str = "dev.aetherium.template.origin";

/// The most that a document may have, in bytes; registries refuse larger ones too.
pub(super) const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// Files of a template: there are four kinds.
const MAX_LAYERS: usize = 16;

/// How the layers of an artifact are packed. Whoever takes one in needs not be told: the first bytes of
/// a layer say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Packing {
    /// gzip, which every tool reads.
    #[default]
    Gzip,
    /// zstd: smaller, and several times as fast.
    Zstd,
}

impl Packing {
    /// A layer's media type: one file, in a sparse tar.
    const fn media_type(self) -> &'static str {
        match self {
            Self::Gzip => "application/vnd.aetherium.template.file.v1.tar+gzip",
            Self::Zstd => "application/vnd.aetherium.template.file.v1.tar+zstd",
        }
    }
}

type Annotations = BTreeMap<String, String>;

/// Names a blob by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    annotations: Annotations,
}

impl Descriptor {
    fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: digest_of(bytes),
            size: bytes.len() as u64,
            artifact_type: None,
            annotations: Annotations::new(),
        }
    }

    /// A layer with one file.
    pub(super) fn layer(packing: Packing, file: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: packing.media_type().to_owned(),
            digest,
            size,
            artifact_type: None,
            annotations: [(TITLE.to_owned(), file.to_owned())].into(),
        }
    }

    /// The file that a layer has.
    pub(super) fn title(&self) -> Option<&str> {
        self.annotations.get(TITLE).map(String::as_str)
    }
}

/// The artifact's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ArtifactManifest {
    schema_version: u32,
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
    #[serde(default)]
    annotations: Annotations,
}

impl ArtifactManifest {
    pub(super) fn of(
        template: &Template,
        told_as: &TemplateRef,
        config: &[u8],
        layers: Vec<Descriptor>,
    ) -> Self {
        let annotations = [
            (CREATED, template.created_at.to_string()),
            (NAME, told_as.to_string()),
            (ORIGIN, template.rootfs.origin.clone()),
        ];
        Self {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            artifact_type: ARTIFACT.to_owned(),
            config: Descriptor::of(CONFIG, config),
            layers,
            annotations: annotations.map(|(key, value)| (key.to_owned(), value)).into(),
        }
    }

    /// Reads a manifest, and sees that it is that of a template.
    pub(super) fn parse(what: &str, bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Kind {
            #[serde(default)]
            artifact_type: Option<String>,
        }
        let kind: Kind = document(what, "manifest", bytes)?;
        if kind.artifact_type.as_deref() != Some(ARTIFACT) {
            let detail = match kind.artifact_type {
                Some(other) => format!("it is an artifact of type {other:?} and no template"),
                None => "it is an image and no template: make one with \
                         `aetherium template build --from`"
                    .to_owned(),
            };
            return Err(unusable(what, detail));
        }
        let manifest: Self = document(what, "manifest", bytes)?;
        if manifest.layers.len() > MAX_LAYERS {
            return Err(unusable(what, format!("it has {} layers", manifest.layers.len())));
        }
        if manifest.config.size > MAX_DOCUMENT_BYTES {
            let size = manifest.config.size;
            return Err(unusable(what, format!("its configuration has {size} bytes")));
        }
        Ok(manifest)
    }

    pub(super) fn bytes(&self, what: &str) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| unusable(what, error.to_string()))
    }

    /// What the template was called; nothing where that is no name.
    pub(super) fn told_name(&self) -> Option<TemplateRef> {
        self.annotations.get(NAME)?.parse().ok()
    }

    /// What its root filesystem is said to be made of.
    pub(super) fn origin(&self) -> String {
        self.annotations.get(ORIGIN).cloned().unwrap_or_default()
    }

    /// When it is said to have been made.
    pub(super) fn created_at(&self) -> Option<Timestamp> {
        let told = serde_json::Value::from(self.annotations.get(CREATED)?.as_str());
        serde_json::from_value(told).ok()
    }
}

/// `index.json` of an image layout.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    pub(super) manifests: Vec<Descriptor>,
}

impl Index {
    /// The index of a layout with one template.
    pub(super) fn of(manifest: &[u8], told_as: &TemplateRef) -> Self {
        let mut only = Descriptor::of(MANIFEST, manifest);
        only.artifact_type = Some(ARTIFACT.to_owned());
        only.annotations.insert(REF_NAME.to_owned(), told_as.to_string());
        Self { schema_version: 2, media_type: INDEX.to_owned(), manifests: vec![only] }
    }
}

pub(super) fn document<'a, T: Deserialize<'a>>(
    what: &str,
    which: &str,
    bytes: &'a [u8],
) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| unusable(what, format!("its {which} cannot be read: {error}")))
}

pub(super) fn unusable(what: &str, detail: String) -> ImageError {
    ImageError::ImageUnusable { image: what.to_owned(), detail }
}

/// The digest of some bytes.
pub(super) fn digest_of(bytes: &[u8]) -> Digest {
    as_digest(Sha256::digest(bytes).as_slice())
}

pub(super) fn as_digest(sha256: &[u8]) -> Digest {
    #[expect(clippy::expect_used, reason = "a SHA-256 in hexadecimal is a digest")]
    Digest::from_hex(&hex(sha256)).expect("a SHA-256 has 64 digits")
}
