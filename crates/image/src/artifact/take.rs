//! Takes an artifact in: unpacks its layers beside the store, checks each file, and commits.

use super::spec::{ArtifactManifest, Descriptor, digest_of, unusable};
use crate::{
    digest,
    error::{ImageError, OnPath, Result},
    layers::{Budget, Layer, Limits, Tree, apply},
    staging::Staging,
    store::{About, Document, InstalledTemplate, TemplateStore},
};
use aetherium_model::{
    Name, TemplateRef, Timestamp,
    template::{Template, TemplateFile},
};
use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::SystemTime,
};

/// Where layers are unpacked, inside the staging directory. No file of a template is called so.
const UNPACKED: &str = ".unpacked";

/// An artifact whose documents have been read and belong together.
pub(super) struct Offer {
    /// How to speak of it.
    what: String,
    manifest: ArtifactManifest,
    document: Document,
    template: Template,
    tag: Name,
}

impl Offer {
    /// Reads the configuration, which must be the one that the manifest names.
    pub(super) fn read(
        what: &str,
        manifest: ArtifactManifest,
        config: Vec<u8>,
        (name, tag): (Name, Name),
    ) -> Result<Self> {
        let wanted = &manifest.config.digest;
        let found = digest_of(&config);
        if found != *wanted {
            let (wanted, found) = (wanted.to_string(), found.hex().to_owned());
            return Err(ImageError::BlobWrong { wanted, found });
        }
        let about = About {
            name: name.clone(),
            created_at: manifest.created_at().unwrap_or_else(|| Timestamp::from(SystemTime::now())),
            origin: manifest.origin(),
            verified_at: None,
        };
        let document = Document::from_bytes(config, about);
        let template = document.template(&name).map_err(|detail| unusable(what, detail))?;
        Ok(Self { what: what.to_owned(), manifest, document, template, tag })
    }

    /// Refuses to take the name of another template, unless it shall be replaced.
    pub(super) fn refuse_if_taken(&self, store: &TemplateStore, replace: bool) -> Result<()> {
        let place = TemplateRef::tagged(self.template.name.clone(), self.tag.clone());
        match store.get(&place) {
            Err(ImageError::NotFound { .. }) => Ok(()),
            Ok(there) if there.manifest.digest == self.document.digest.hex() => Ok(()),
            _ if replace => Ok(()),
            Ok(_) => Err(ImageError::AlreadyExists { name: place.name }),
            Err(error) => Err(error),
        }
    }

    /// The layers with the files that the template has. Others are of no use, and are not fetched.
    pub(super) fn layers(&self) -> Result<Vec<(TemplateFile, Descriptor)>> {
        let of = |file: &TemplateFile| {
            let layers = &self.manifest.layers;
            let found = layers.iter().find(|it| it.title() == Some(file.file.as_str()));
            let missing = || unusable(&self.what, format!("it has no layer with {}", file.file));
            Ok((file.clone(), found.ok_or_else(missing)?.clone()))
        };
        self.template.files().map(of).collect()
    }

    /// Unpacks one layer into the staging directory, as the file it must hold.
    pub(super) fn unpack(
        &self,
        staging: &Path,
        file: &TemplateFile,
        layer: &Descriptor,
        bytes: File,
        budget: &mut Budget,
    ) -> Result<()> {
        let dir = staging.join(UNPACKED);
        fs::create_dir(&dir).on("make directory", &dir)?;
        let mut tree = Tree::in_dir(&dir).on("open", &dir)?;
        let packed = Some(layer.digest.hex().to_owned());
        let name = format!("{} ({})", file.file, layer.digest);
        apply(&mut tree, &Layer { name, packed, unpacked: None }, bytes, budget)?;
        let path = dir.join(&file.file);
        let found = fs::symlink_metadata(&path).on("find", &path)?;
        if !found.is_file() || found.len() != file.size {
            let detail = format!("{} is no file of {} bytes", file.file, file.size);
            return Err(unusable(&self.what, detail));
        }
        let found = digest::of_file(&path)?;
        if found != file.sha256 {
            return Err(ImageError::BlobWrong { wanted: format!("sha256:{}", file.sha256), found });
        }
        fs::set_permissions(&path, Permissions::from_mode(0o644))
            .on("set permissions of", &path)?;
        let place = staging.join(&file.file);
        fs::rename(&path, &place).on("move", &path)?;
        fs::remove_dir_all(&dir).on("remove", &dir)
    }

    /// Puts what was unpacked into the store.
    pub(super) fn commit(
        self,
        store: &TemplateStore,
        staging: Staging,
    ) -> Result<InstalledTemplate> {
        store.commit_document(staging, &self.template, self.document, &self.tag)
    }
}

/// What an artifact may unpack to, all files together.
pub(super) fn budget() -> Budget {
    Budget::new(Limits::default())
}
