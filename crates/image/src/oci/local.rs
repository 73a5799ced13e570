//! Images on this host: layout directories, archives of either kind, tarballs.

use super::{
    Bytes, Image, StoredLayer,
    spec::{
        self, Config, Descriptor, Digest, ImageManifest, MAX_DOCUMENT_BYTES, Manifest, unusable,
    },
};
use crate::{
    digest,
    error::{OnPath, Result},
    layers::{Budget, Layer, Limits, Tree, TreePath, apply},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Indexes that lead to indexes.
const MAX_INDEXES: usize = 4;

/// Where an image's files are.
enum Files {
    /// A directory of the user's, who may have linked its files from elsewhere.
    Dir(PathBuf),
    /// What was unpacked of an archive, whose links must not lead out of it.
    Unpacked(Arc<Tree>),
}

impl Files {
    fn open(&self, path: &str) -> Result<File> {
        let opened = match self {
            Self::Dir(dir) => File::open(dir.join(path)),
            Self::Unpacked(tree) => tree.open_file(&inside(path)?),
        };
        opened.on("open", Path::new(path))
    }

    fn has(&self, path: &str) -> bool {
        self.open(path).is_ok()
    }

    fn document(&self, image: &str, path: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut file = self.open(path)?.take(MAX_DOCUMENT_BYTES + 1);
        file.read_to_end(&mut bytes).on("read", Path::new(path))?;
        if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
            return Err(unusable(image, format!("{path} is larger than a document may be")));
        }
        Ok(bytes)
    }

    fn blob(&self, image: &str, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let bytes = self.document(image, &blob_path(&descriptor.digest))?;
        let found = digest::hex(&Sha256::digest(&bytes));
        if found != descriptor.digest.hex() {
            let digest = &descriptor.digest;
            return Err(unusable(
                image,
                format!("blob {digest} has the content of sha256:{found}"),
            ));
        }
        Ok(bytes)
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A root filesystem in a tar file.
pub(super) fn tarball(file: &Path) -> Result<Image> {
    let size = fs::metadata(file).on("find", file)?.len();
    let origin = format!("tar:{}", file.display());
    let layer = Layer { name: file.display().to_string(), ..Layer::default() };
    let layers = vec![StoredLayer { layer, bytes: Bytes::At(file.to_owned()), size }];
    Ok(Image { origin, defaults: None, layers })
}

/// An image of a layout directory.
pub(super) fn layout(dir: &Path, tag: Option<&str>, name: String) -> Result<Image> {
    fs::metadata(dir.join("index.json")).on("find an image layout's", &dir.join("index.json"))?;
    from_layout(&Files::Dir(dir.to_owned()), tag, name)
}

/// An image of an archive, which is unpacked into `work` for the time of the build.
pub(super) fn archive(file: &Path, tag: Option<&str>, work: &Path, name: String) -> Result<Image> {
    fs::create_dir(work).on("make directory", work)?;
    let mut tree = Tree::in_dir(work).on("open", work)?;
    let layer = Layer { name: file.display().to_string(), ..Layer::default() };
    let bytes = File::open(file).on("open", file)?;
    apply(&mut tree, &layer, bytes, &mut Budget::new(Limits::default()))?;
    let files = Files::Unpacked(Arc::new(tree));
    if files.has("index.json") && !(tag.is_some() && files.has("manifest.json")) {
        return from_layout(&files, tag, name);
    }
    if files.has("manifest.json") {
        return from_docker(&files, tag, name);
    }
    let detail = "it holds neither index.json nor manifest.json: no image archive; for a plain root \
                  filesystem write tar:FILE";
    Err(unusable(&name, detail.to_owned()))
}

fn from_layout(files: &Files, tag: Option<&str>, name: String) -> Result<Image> {
    let mut bytes = files.document(&name, "index.json")?;
    let mut tag = tag;
    for _ in 0..MAX_INDEXES {
        match Manifest::parse(&name, &bytes)? {
            Manifest::Index(index) => bytes = files.blob(&name, index.choose(&name, tag)?)?,
            Manifest::Image(manifest) => return image(files, name, &manifest),
        }
        // Only the outermost index has names.
        tag = None;
    }
    Err(unusable(&name, format!("{MAX_INDEXES} indexes lead from one to the next")))
}

fn image(files: &Files, name: String, manifest: &ImageManifest) -> Result<Image> {
    let config = files.blob(&name, &manifest.config)?;
    let config = Config::parse(&name, &config, manifest.layers.len())?;
    let layers = named(manifest, &config)
        .map(|(layer, descriptor)| {
            let bytes = place_of(files, &blob_path(&descriptor.digest))?;
            Ok(StoredLayer { layer, bytes, size: descriptor.size })
        })
        .collect::<Result<_>>()?;
    Ok(Image { origin: name, defaults: Some(config.defaults()), layers })
}

/// The layers of a manifest with what their bytes must be.
pub(super) fn named<'a>(
    manifest: &'a ImageManifest,
    config: &'a Config,
) -> impl Iterator<Item = (Layer, &'a Descriptor)> {
    let count = manifest.layers.len();
    manifest.layers.iter().zip(config.unpacked_digests()).enumerate().map(
        move |(n, (descriptor, unpacked))| {
            let layer = Layer {
                name: format!("{} of {count} ({})", n + 1, descriptor.digest),
                packed: Some(descriptor.digest.hex().to_owned()),
                unpacked: Some(unpacked.hex().to_owned()),
            };
            (layer, descriptor)
        },
    )
}

/// Where a layer is. It is opened when its turn comes: an image may have more layers than a process
/// may have open files.
fn place_of(files: &Files, path: &str) -> Result<Bytes> {
    Ok(match files {
        Files::Dir(dir) => Bytes::At(dir.join(path)),
        Files::Unpacked(tree) => Bytes::Inside(Arc::clone(tree), inside(path)?),
    })
}

fn inside(path: &str) -> Result<TreePath> {
    TreePath::parse(path.as_bytes())
        .map_err(|problem| io::Error::new(io::ErrorKind::InvalidInput, problem))
        .on("open", Path::new(path))
}

/// What `docker save` writes: `manifest.json` names a configuration and layers by their paths.
fn from_docker(files: &Files, tag: Option<&str>, name: String) -> Result<Image> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Saved {
        config: String,
        #[serde(default)]
        repo_tags: Option<Vec<String>>,
        layers: Vec<String>,
    }
    let bytes = files.document(&name, "manifest.json")?;
    let all: Vec<Saved> = spec::document(&name, "manifest.json", &bytes)?;
    let wanted = |saved: &&Saved| match tag {
        None => true,
        Some(tag) => saved.repo_tags.iter().flatten().any(|it| it == tag),
    };
    let found: Vec<_> = all.iter().filter(wanted).collect();
    let [saved] = found[..] else {
        let tags: Vec<_> =
            all.iter().flat_map(|it| it.repo_tags.iter().flatten()).map(String::as_str).collect();
        let detail = format!("{} images fit; add :TAG, one of {}", found.len(), tags.join(", "));
        return Err(unusable(&name, detail));
    };
    let config = files.document(&name, &saved.config)?;
    let config = Config::parse(&name, &config, saved.layers.len())?;
    let count = saved.layers.len();
    let layers = saved.layers.iter().zip(config.unpacked_digests()).enumerate();
    let layers = layers
        .map(|(n, (path, unpacked))| {
            let layer = Layer {
                name: format!("{} of {count} ({path})", n + 1),
                packed: None,
                unpacked: Some(unpacked.hex().to_owned()),
            };
            let size = files.open(path)?.metadata().on("look at", Path::new(path))?.len();
            Ok(StoredLayer { layer, bytes: place_of(files, path)?, size })
        })
        .collect::<Result<_>>()?;
    Ok(Image { origin: name, defaults: Some(config.defaults()), layers })
}
