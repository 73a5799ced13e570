//! A template as one file: an OCI image layout in a tar archive.

use super::{
    Artifact, Packing, Placement, pack_all,
    spec::{ArtifactManifest, Index, MANIFEST, MAX_DOCUMENT_BYTES, digest_of, document, unusable},
    take::{Offer, budget},
};
use crate::{
    error::{ImageError, OnPath, Result, blocking},
    layers::{Layer, Tree, TreePath, apply},
    progress::Progress,
    staging::{NameLock, Staging},
    store::{InstalledTemplate, TemplateStore},
};
use aetherium_model::{Digest, Name, TemplateRef};
use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
    time::Duration,
};
use tar::{EntryType, Header};

/// What the layout's own file says (OCI image specification 1.1, "oci-layout file").
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// Where the archive is unpacked, inside the staging directory.
const ARCHIVE: &str = ".archive";
/// Whose lock an import has that does not know yet what the template is called.
const NAMELESS: &str = "import";
/// How long another import or build of the same name is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(1800);

/// Writes a template as a tar archive.
///
/// # Errors
/// [`ImageError::NotFound`] without the template; else what kept it from being packed or written.
pub async fn export(
    store: &TemplateStore,
    wanted: &TemplateRef,
    packing: Packing,
    output: impl Write + Send + 'static,
    progress: &dyn Progress,
) -> Result<InstalledTemplate> {
    let template = store.get(wanted)?;
    let artifact = pack_all(store, &template, wanted, packing, progress).await?;
    progress.step("writing the archive");
    let name = wanted.clone();
    blocking(move || write(artifact, &name, output)).await?;
    Ok(template)
}

/// The same into a file, which appears whole or not at all. One that is there is replaced.
///
/// # Errors
/// As [`export`].
pub async fn export_to(
    store: &TemplateStore,
    wanted: &TemplateRef,
    packing: Packing,
    file: &Path,
    progress: &dyn Progress,
) -> Result<InstalledTemplate> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let aside = tempfile::NamedTempFile::new_in(dir).on("make a file in", dir)?;
    let output = aside.reopen().on("open", aside.path())?;
    let template = export(store, wanted, packing, output, progress).await?;
    let place = file.to_owned();
    blocking(move || {
        aside.as_file().sync_all().on("write to disk", &place)?;
        aside.persist(&place).map_err(|error| error.error).on("write", &place)?;
        Ok(())
    })
    .await?;
    Ok(template)
}

fn write(artifact: Artifact, told_as: &TemplateRef, output: impl Write) -> Result<()> {
    let Artifact { manifest, config, layers } = artifact;
    let what = told_as.to_string();
    let manifest = manifest.bytes(&what)?;
    let index = serde_json::to_vec(&Index::of(&manifest, told_as))
        .map_err(|error| unusable(&what, error.to_string()))?;
    let mut archive = Archive(io::BufWriter::with_capacity(1 << 20, output));
    let written = (|| {
        archive.file("oci-layout", LAYOUT.len() as u64, LAYOUT)?;
        archive.file("index.json", index.len() as u64, index.as_slice())?;
        for document in [manifest, config] {
            let path = blob_path(&digest_of(&document));
            archive.file(&path, document.len() as u64, document.as_slice())?;
        }
        let mut written: Vec<Digest> = Vec::new();
        for layer in layers {
            let digest = layer.descriptor.digest;
            if !written.contains(&digest) {
                archive.file(&blob_path(&digest), layer.descriptor.size, layer.file)?;
                written.push(digest);
            }
        }
        archive.end()
    })();
    written.on("write the archive of", Path::new(&what))
}

/// A tar archive being written.
struct Archive<W>(W);

impl<W: Write> Archive<W> {
    fn file(&mut self, path: &str, size: u64, content: impl Read) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_path(path)?;
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(size);
        header.set_cksum();
        self.0.write_all(header.as_bytes())?;
        if io::copy(&mut content.take(size), &mut self.0)? != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.zeros(size.next_multiple_of(512) - size)
    }

    fn end(mut self) -> io::Result<()> {
        self.zeros(1024)?;
        self.0.flush()
    }

    fn zeros(&mut self, bytes: u64) -> io::Result<()> {
        io::copy(&mut io::repeat(0).take(bytes), &mut self.0).map(drop)
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Takes a template from what [`export`] wrote, plain or packed with gzip or zstd. It comes whole or
/// not at all.
///
/// # Errors
/// [`ImageError::AlreadyExists`] where the name is another template's and is not to be replaced;
/// [`ImageError::LayerRefused`], [`ImageError::BlobWrong`] or [`ImageError::ImageUnusable`] where the
/// file is damaged or means harm.
pub async fn import(
    store: &TemplateStore,
    file: &Path,
    place: &Placement,
    progress: &dyn Progress,
) -> Result<InstalledTemplate> {
    let what = file.display().to_string();
    let locked = match &place.name {
        Some(place) => place.name.clone(),
        None => NAMELESS.parse::<Name>().map_err(|error| unusable(&what, error.to_string()))?,
    };
    let lock = NameLock::acquire(store.dir(), &locked, LOCK_PATIENCE).await?;
    progress.step("reading the archive");
    let (path, placed, known) = (file.to_owned(), place.clone(), store.clone());
    let (staging, archive, offer) = blocking(move || {
        let staging = Staging::new(lock)?;
        let archive = Layout::unpack(&path, &staging.path().join(ARCHIVE))?;
        let offer = archive.offer(&placed)?;
        offer.refuse_if_taken(&known, placed.replace)?;
        Ok((staging, archive, offer))
    })
    .await?;
    let layers = offer.layers()?;
    progress.total("unpacking", Some(layers.iter().map(|(file, _)| file.size).sum()));
    let (mut staging, mut archive, mut offer, mut left) = (staging, archive, offer, budget());
    for (file, layer) in layers {
        let size = file.size;
        (staging, archive, offer, left) = blocking(move || {
            let bytes = archive.open(&blob_path(&layer.digest))?;
            offer.unpack(staging.path(), &file, &layer, bytes, &mut left)?;
            Ok((staging, archive, offer, left))
        })
        .await?;
        progress.advance(size);
    }
    progress.done();
    let store = store.clone();
    blocking(move || offer.commit(&store, staging)).await
}

/// An image layout that was unpacked, whose links cannot lead out of it.
struct Layout {
    what: String,
    tree: Tree,
}

impl Layout {
    fn unpack(file: &Path, dir: &Path) -> Result<Self> {
        std::fs::create_dir(dir).on("make directory", dir)?;
        let mut tree = Tree::in_dir(dir).on("open", dir)?;
        let what = file.display().to_string();
        let layer = Layer { name: what.clone(), ..Layer::default() };
        let bytes = File::open(file).on("open", file)?;
        apply(&mut tree, &layer, bytes, &mut budget())?;
        Ok(Self { what, tree })
    }

    fn offer(&self, place: &Placement) -> Result<Offer> {
        let index = self.document("index.json").map_err(|error| match error {
            ImageError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                unusable(&self.what, "it has no index.json: no archive of a template".to_owned())
            }
            other => other,
        })?;
        let index: Index = document(&self.what, "index.json", &index)?;
        let [only] = &index.manifests[..] else {
            let detail = format!("it has {} manifests, and one is wanted", index.manifests.len());
            return Err(unusable(&self.what, detail));
        };
        if only.media_type != MANIFEST {
            let detail = format!("its manifest is {:?}", only.media_type);
            return Err(unusable(&self.what, detail));
        }
        let bytes = self.document(&blob_path(&only.digest))?;
        let found = digest_of(&bytes);
        if found != only.digest {
            let (wanted, found) = (only.digest.to_string(), found.hex().to_owned());
            return Err(ImageError::BlobWrong { wanted, found });
        }
        let manifest = ArtifactManifest::parse(&self.what, &bytes)?;
        let config = self.document(&blob_path(&manifest.config.digest))?;
        let named = place.decide(manifest.told_name(), &self.what)?;
        Offer::read(&self.what, manifest, config, named)
    }

    fn open(&self, path: &str) -> Result<File> {
        let inside = TreePath::parse(path.as_bytes())
            .map_err(|problem| io::Error::new(io::ErrorKind::InvalidInput, problem))
            .on("open", Path::new(path))?;
        self.tree.open_file(&inside).on("open", Path::new(path))
    }

    fn document(&self, path: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut file = self.open(path)?.take(MAX_DOCUMENT_BYTES + 1);
        file.read_to_end(&mut bytes).on("read", Path::new(path))?;
        if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
            return Err(unusable(&self.what, format!("{path} is larger than a document may be")));
        }
        Ok(bytes)
    }
}
