//! Images as others make them, on their way to a root filesystem.
//!
//! ```text
//! oci:DIR      ─┐
//! archive FILE ─┼─► Image: configuration, layers in order ─► layers::apply … ─► tree ─► rootfs.ext4
//! registry     ─┘    (every digest checked while it is read)
//! tar:FILE     ───── one layer without a configuration
//! ```
//! [`ImageOrigin`] says where from, [`spec`] reads the documents, [`local`] finds them in directories
//! and archives, [`registry`] fetches them through the [`cache`]. Nothing of an image is run. [`remote`]
//! is for artifacts, which are sent to registries too.

mod access;
mod auth;
mod cache;
mod local;
mod manifest;
mod origin;
mod registry;
mod remote;
mod spec;
mod tls;
mod upload;

pub use access::{Mirror, RegistryAccess};
pub use auth::Credentials;
pub use cache::BlobCache;
pub use origin::{ImageOrigin, ImageReference, OriginInvalid};
pub(crate) use remote::Remote;
pub use tls::install_tls;

use crate::{
    digest,
    error::{ImageError, Result, blocking},
    layers::{Budget, Layer, Limits, Ownership, Tree, TreePath, apply},
    progress::Progress,
};
use aetherium_model::{finding::Finding, template::ImageDefaults};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// An image, all of it on this host.
#[derive(Debug)]
pub(crate) struct Image {
    /// How to speak of it.
    pub(crate) origin: String,
    /// What it says about commands; none where it has no configuration.
    pub(crate) defaults: Option<ImageDefaults>,
    layers: Vec<StoredLayer>,
}

/// A layer and where its bytes are.
#[derive(Debug)]
struct StoredLayer {
    layer: Layer,
    bytes: Bytes,
    /// How many there are, packed.
    size: u64,
}

#[derive(Debug)]
enum Bytes {
    At(PathBuf),
    /// In an archive that was unpacked.
    Inside(Arc<Tree>, TreePath),
    /// Held open, so that an eviction from the cache does not matter.
    Held(File),
}

impl Bytes {
    fn open(self) -> io::Result<File> {
        match self {
            Self::At(path) => File::open(path),
            Self::Inside(tree, path) => tree.open_file(&path),
            Self::Held(file) => Ok(file),
        }
    }
}

impl Image {
    /// Stands for the content of its layers; none where one of them has no digest.
    pub(crate) fn key(&self) -> Option<String> {
        let digest = |it: &StoredLayer| it.layer.unpacked.clone().or(it.layer.packed.clone());
        let digests: Vec<String> = self.layers.iter().map(digest).collect::<Option<_>>()?;
        Some(digest::of_parts(digests.iter().map(String::as_str)))
    }
}

/// What images are fetched into and unpacked within.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places<'a> {
    /// A directory that is this build's own.
    pub(crate) work: &'a Path,
    /// How registries are reached.
    pub(crate) registry: &'a RegistryAccess,
}

/// Gets an image.
///
/// # Errors
/// It is not there, not for this machine, or not what its digests say.
pub(crate) async fn get(
    origin: &ImageOrigin,
    places: Places<'_>,
    progress: &dyn Progress,
) -> Result<Image> {
    match origin {
        ImageOrigin::Registry(reference) => {
            registry::pull(reference, places.registry, progress).await
        }
        ImageOrigin::Tarball(file) => local::tarball(file),
        ImageOrigin::Layout { dir, tag } => {
            let (dir, tag, name) = (dir.clone(), tag.clone(), origin.to_string());
            blocking(move || local::layout(&dir, tag.as_deref(), name)).await
        }
        ImageOrigin::Archive { file, tag } => {
            progress.step("unpacking the archive");
            let (file, tag, name) = (file.clone(), tag.clone(), origin.to_string());
            let unpacked = places.work.join("archive");
            blocking(move || local::archive(&file, tag.as_deref(), &unpacked, name)).await
        }
        ImageOrigin::Directory(dir) => Err(ImageError::RootfsUnusable {
            path: dir.clone(),
            detail: "a directory has no layers".to_owned(),
        }),
    }
}

/// Lays an image's layers into `dir`, which is made. Without root, owners and modes are written to
/// `owners` for `fakeroot`.
pub(crate) async fn unpack(
    image: Image,
    dir: &Path,
    owners: Option<&Path>,
    progress: &dyn Progress,
) -> Result<()> {
    let (root, origin) = (dir.to_owned(), image.origin);
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| ImageError::Io { action, path, source }
    };
    let made = root.clone();
    let mut tree = blocking(move || {
        fs::create_dir(&made).map_err(io("make directory", &made))?;
        Tree::in_dir(&made).map_err(io("open", &made))
    })
    .await?;
    let mut budget = Budget::new(Limits::default());
    let mut devices = 0;
    let total = image.layers.iter().map(|layer| layer.size).sum();
    progress.total("unpacking layers", Some(total));
    for StoredLayer { layer, bytes, size } in image.layers {
        let found;
        (tree, budget, found) = blocking(move || {
            let bytes = bytes.open().map_err(io("open layer", Path::new(&layer.name)))?;
            let devices = apply(&mut tree, &layer, bytes, &mut budget)?;
            Ok((tree, budget, devices))
        })
        .await?;
        devices += found;
        progress.advance(size);
    }
    progress.done();
    progress.step("setting owners and modes");
    let owners = owners.map(Path::to_owned);
    let lost = blocking(move || {
        let ownership = owners.as_deref().map_or(Ownership::Real, Ownership::Recorded);
        tree.seal(ownership).map_err(|problem| ImageError::LayerRefused {
            layer: "(all together)".to_owned(),
            entry: String::new(),
            problem,
        })
    })
    .await?;
    warn(&origin, devices, lost, progress);
    Ok(())
}

fn warn(origin: &str, devices: u64, lost_attributes: u64, progress: &dyn Progress) {
    if devices > 0 {
        progress.warn(&Finding::warn(
            "template.image.devices",
            format!("{origin} has {devices} device nodes, which were left out"),
            "the guest's kernel fills /dev by itself; nodes elsewhere are seldom meant well",
            "nothing, unless a program of the image needs a node outside of /dev",
        ));
    }
    if lost_attributes > 0 {
        progress.warn(&Finding::warn(
            "template.image.attributes",
            format!("{lost_attributes} extended attributes of {origin} could not be kept"),
            "file capabilities are among them: a program may lack a right it has in the image",
            "build the template as root",
        ));
    }
}
