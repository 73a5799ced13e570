//! The documents of an image: index, manifest, configuration (OCI image specification 1.1, and
//! Docker's manifests version 2, which have the same fields).

use crate::error::{ImageError, Result};
pub(super) use aetherium_model::Digest;
use aetherium_model::template::ImageDefaults;
use serde::Deserialize;
use std::{collections::BTreeMap, fmt};

/// The most that a document may have, in bytes; registries refuse larger ones too.
pub(super) const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// Layers of an image: far more than any tool writes.
const MAX_LAYERS: usize = 10_000;
/// The annotation that names an image of a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Names a blob by its content.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Descriptor {
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    pub(super) const fn of(digest: Digest, size: u64) -> Self {
        Self { digest, size, platform: None, annotations: None }
    }

    fn tag(&self) -> Option<&str> {
        self.annotations.as_ref()?.get(REF_NAME).map(String::as_str)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

/// What a manifest's name leads to.
#[derive(Debug)]
pub(super) enum Manifest {
    /// Images to choose from.
    Index(Index),
    /// One image.
    Image(ImageManifest),
}

/// Images, for several platforms or under several names.
#[derive(Debug, Deserialize)]
pub(super) struct Index {
    manifests: Vec<Descriptor>,
}

/// One image's parts.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ImageManifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

impl Manifest {
    pub(super) fn parse(image: &str, bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Kind {
            #[serde(default)]
            manifests: Option<serde::de::IgnoredAny>,
        }
        let kind: Kind = document(image, "manifest", bytes)?;
        if kind.manifests.is_some() {
            return Ok(Self::Index(document(image, "index", bytes)?));
        }
        let manifest: ImageManifest = document(image, "manifest", bytes)?;
        if manifest.layers.len() > MAX_LAYERS {
            let layers = manifest.layers.len();
            return Err(unusable(image, format!("it has {layers} layers, over {MAX_LAYERS}")));
        }
        Ok(Self::Image(manifest))
    }
}

impl Index {
    /// The one image with this tag for this machine. An image without a platform is taken to be for
    /// it: its configuration tells later.
    pub(super) fn choose(&self, image: &str, tag: Option<&str>) -> Result<&Descriptor> {
        let tagged: Vec<_> =
            self.manifests.iter().filter(|it| tag.is_none() || it.tag() == tag).collect();
        let listed = |all: &[&Descriptor], what: fn(&Descriptor) -> Option<String>| {
            all.iter().filter_map(|it| what(it)).collect::<Vec<_>>().join(", ")
        };
        if tagged.is_empty() {
            let all: Vec<_> = self.manifests.iter().collect();
            let there = listed(&all, |it| it.tag().map(str::to_owned));
            let tag = tag.unwrap_or_default();
            return Err(unusable(image, format!("it has no image {tag:?}; it has: {there}")));
        }
        let here = host_platform();
        let fitting: Vec<_> = tagged
            .iter()
            .copied()
            .filter(|it| it.platform.as_ref().is_none_or(|platform| *platform == here))
            .collect();
        match fitting[..] {
            [one] => Ok(one),
            [first, ..] if fitting.iter().all(|it| it.digest == first.digest) => Ok(first),
            // Variants of one platform come best first.
            [first, ..]
                if fitting.iter().all(|it| it.tag() == first.tag() && it.platform.is_some()) =>
            {
                Ok(first)
            }
            [] => Err(ImageError::PlatformMissing {
                image: image.to_owned(),
                wanted: here.to_string(),
                found: listed(&tagged, |it| it.platform.as_ref().map(Platform::to_string)),
            }),
            _ => {
                let tags = listed(&fitting, |it| it.tag().map(str::to_owned));
                Err(unusable(image, format!("it holds several images; add :TAG, one of {tags}")))
            }
        }
    }
}

/// An image's configuration.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    architecture: String,
    os: String,
    #[serde(default)]
    config: Option<RunConfig>,
    rootfs: RootfsDigests,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RunConfig {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RootfsDigests {
    diff_ids: Vec<Digest>,
}

impl Config {
    /// Reads it and sees that the image is for this machine and has as many layers as it says.
    pub(super) fn parse(image: &str, bytes: &[u8], layers: usize) -> Result<Self> {
        let config: Self = document(image, "configuration", bytes)?;
        let found = Platform { os: config.os.clone(), architecture: config.architecture.clone() };
        let here = host_platform();
        if found != here {
            return Err(ImageError::PlatformMissing {
                image: image.to_owned(),
                wanted: here.to_string(),
                found: found.to_string(),
            });
        }
        let said = config.rootfs.diff_ids.len();
        if said != layers {
            let detail = format!("it has {layers} layers, but its configuration names {said}");
            return Err(unusable(image, detail));
        }
        Ok(config)
    }

    /// The digests of the unpacked layers, in order.
    pub(super) fn unpacked_digests(&self) -> impl Iterator<Item = &Digest> {
        self.rootfs.diff_ids.iter()
    }

    pub(super) fn defaults(&self) -> ImageDefaults {
        let Some(run) = &self.config else { return ImageDefaults::default() };
        let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let env = run.env.iter().flatten().filter_map(|pair| pair.split_once('='));
        ImageDefaults {
            entrypoint: run.entrypoint.clone().unwrap_or_default(),
            cmd: run.cmd.clone().unwrap_or_default(),
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            // `user:group`: the group is the user's own, as in /etc/passwd.
            user: some(&run.user).and_then(|user| some(&user.split(':').next().map(str::to_owned))),
            workdir: some(&run.working_dir),
        }
    }
}

/// This machine's, in Go's words, which images use.
fn host_platform() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Platform { os: "linux".to_owned(), architecture: architecture.to_owned() }
}

pub(super) fn document<'a, T: Deserialize<'a>>(
    image: &str,
    what: &str,
    bytes: &'a [u8],
) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| unusable(image, format!("its {what} cannot be read: {error}")))
}

pub(super) fn unusable(image: &str, detail: String) -> ImageError {
    ImageError::ImageUnusable { image: image.to_owned(), detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(digit: char, platform: &str, tag: &str) -> serde_json::Value {
        let (os, architecture) = platform.split_once('/').unwrap();
        serde_json::json!({
            "digest": format!("sha256:{}", digit.to_string().repeat(64)), "size": 1,
            "platform": { "os": os, "architecture": architecture },
            "annotations": { REF_NAME: tag },
        })
    }

    fn index(manifests: &[serde_json::Value]) -> Index {
        let text = serde_json::json!({ "manifests": manifests }).to_string();
        match Manifest::parse("i", text.as_bytes()).unwrap() {
            Manifest::Index(index) => index,
            Manifest::Image(_) => panic!("it is an index"),
        }
    }

    #[test]
    fn the_image_for_this_machine_is_chosen_among_platforms() {
        let here = host_platform().to_string();
        let index = index(&[
            descriptor('a', "linux/s390x", "v1"),
            descriptor('b', &here, "v1"),
            descriptor('c', "unknown/unknown", "v1"),
        ]);
        assert!(index.choose("i", None).unwrap().digest.hex().starts_with('b'));
        assert!(index.choose("i", Some("v1")).unwrap().digest.hex().starts_with('b'));
        let error = index.choose("i", Some("v2")).unwrap_err().to_string();
        assert!(error.contains("\"v2\"") && error.contains("v1"), "{error}");
    }

    #[test]
    fn an_image_for_other_machines_only_is_refused_with_what_there_is() {
        let error = index(&[descriptor('a', "linux/s390x", "v1")]).choose("i", None).unwrap_err();
        assert!(error.to_string().contains("linux/s390x"), "{error}");
    }

    #[test]
    fn several_images_need_a_tag() {
        let here = host_platform().to_string();
        let index = index(&[descriptor('a', &here, "v1"), descriptor('b', &here, "v2")]);
        let error = index.choose("i", None).unwrap_err().to_string();
        assert!(error.contains("v1, v2"), "{error}");
        assert!(index.choose("i", Some("v2")).unwrap().digest.hex().starts_with('b'));
    }

    #[test]
    fn a_digest_that_could_be_a_path_is_refused() {
        let escape = format!("sha256:../{}", "a".repeat(61));
        for text in [escape.as_str(), "sha256:abc", "sha512:00", "", &"A".repeat(71)] {
            assert!(Digest::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_configuration_says_about_commands_is_kept() {
        let here = host_platform();
        let text = serde_json::json!({
            "os": here.os, "architecture": here.architecture,
            "config": { "User": "dev:staff", "Env": ["PATH=/opt/bin", "EMPTY=", "odd"],
                        "Entrypoint": ["/init"], "Cmd": null, "WorkingDir": "/srv" },
            "rootfs": { "type": "layers", "diff_ids": [] },
        });
        let config = Config::parse("i", text.to_string().as_bytes(), 0).unwrap();
        let defaults = config.defaults();
        assert_eq!(defaults.user.as_deref(), Some("dev"));
        assert_eq!(defaults.env["PATH"], "/opt/bin");
        assert_eq!(defaults.env.len(), 2);
        assert_eq!(
            (defaults.entrypoint.as_slice(), defaults.cmd.len()),
            (&["/init".into()][..], 0)
        );
        assert_eq!(defaults.workdir.as_deref(), Some("/srv"));
        assert!(Config::parse("i", text.to_string().as_bytes(), 1).is_err());
    }
}
