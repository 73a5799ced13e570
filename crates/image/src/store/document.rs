//! A template's manifest as it is kept: what makes the template what it is, apart from what is only
//! known about it.
//!
//! The manifest has neither name nor date nor origin: the same parts give the same bytes, and so the
//! same digest, whoever made them, when, and under whatever name.

use aetherium_model::{
    Digest, Name, Timestamp,
    template::{MANIFEST_FORMAT, Template, TemplateFile},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path},
};

pub(super) const MANIFEST_FILE: &str = "manifest.json";
pub(super) const ABOUT_FILE: &str = "about.json";

/// What is known about a template and is no part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// The name it was first made under.
    pub(crate) name: Name,
    /// When it was first made.
    pub(crate) created_at: Timestamp,
    /// What its root filesystem was made of.
    pub(crate) origin: String,
    /// When all its files were last seen to have the content they must have.
    #[serde(default)]
    pub(crate) verified_at: Option<Timestamp>,
}

/// A manifest and what is known about it.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) about: About,
}

/// Why a manifest cannot be used, for people.
pub(crate) type Unusable = String;

impl Document {
    /// The manifest of a template, whose digest need not be known yet.
    pub(crate) fn of(template: &Template) -> Result<Self, Unusable> {
        let about = About {
            name: template.name.clone(),
            created_at: template.created_at,
            origin: template.rootfs.origin.clone(),
            verified_at: None,
        };
        let mut value = serde_json::to_value(template).map_err(|error| error.to_string())?;
        for field in ["name", "digest", "created_at"] {
            map(&mut value)?.remove(field);
        }
        map(&mut value["rootfs"])?.remove("origin");
        value.sort_all_objects();
        let bytes = serde_json::to_vec(&value).map_err(|error| error.to_string())?;
        Ok(Self { digest: digest(&bytes), bytes, about })
    }

    /// The manifest that these bytes are, told apart from any other by their digest.
    pub(crate) fn from_bytes(bytes: Vec<u8>, about: About) -> Self {
        Self { digest: digest(&bytes), bytes, about }
    }

    /// The manifest of a directory; none where there is none.
    pub(super) fn read(dir: &Path, wanted: &Digest) -> Result<Option<Self>, Unusable> {
        let bytes = match fs::read(dir.join(MANIFEST_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !dir.exists() => {
                return Ok(None);
            }
            other => other.map_err(|error| format!("{MANIFEST_FILE}: {error}"))?,
        };
        let about = fs::read(dir.join(ABOUT_FILE)).map_err(|e| format!("{ABOUT_FILE}: {e}"))?;
        let about = serde_json::from_slice(&about).map_err(|e| format!("{ABOUT_FILE}: {e}"))?;
        let document = Self::from_bytes(bytes, about);
        if document.digest != *wanted {
            return Err(format!("its manifest was changed: it is now {}", document.digest));
        }
        Ok(Some(document))
    }

    /// The template under a name.
    pub(crate) fn template(&self, name: &Name) -> Result<Template, Unusable> {
        let mut value: Value =
            serde_json::from_slice(&self.bytes).map_err(|error| error.to_string())?;
        let format = &value["format"];
        if *format != MANIFEST_FORMAT {
            return Err(format!(
                "its manifest has format {format}, this version reads {MANIFEST_FORMAT}"
            ));
        }
        let about = &self.about;
        map(&mut value["rootfs"])?.insert("origin".into(), about.origin.clone().into());
        let whole = map(&mut value)?;
        whole.insert("name".into(), name.as_str().into());
        whole.insert("digest".into(), self.digest.hex().into());
        whole.insert("created_at".into(), about.created_at.to_string().into());
        let template: Template =
            serde_json::from_value(value).map_err(|error| error.to_string())?;
        check_files(&template)?;
        Ok(template)
    }
}

/// A manifest may come from anybody: no file of it may have a name or a digest that is a path, and no
/// two of them one name.
pub(super) fn check_files(template: &Template) -> Result<(), Unusable> {
    let mut names = BTreeSet::new();
    for file in template.files() {
        check_file(file)?;
        if !names.insert(&file.file) {
            return Err(format!("two of its files are called {:?}", file.file));
        }
    }
    Ok(())
}

fn check_file(file: &TemplateFile) -> Result<(), Unusable> {
    let mut parts = Path::new(&file.file).components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
        return Err(format!("{:?} is not a file name", file.file));
    }
    blob_of(file).map(drop)
}

/// The digest of a file's content.
pub(super) fn blob_of(file: &TemplateFile) -> Result<Digest, Unusable> {
    Digest::from_hex(&file.sha256).map_err(|error| format!("{}: {error}", file.file))
}

fn map(value: &mut Value) -> Result<&mut Map<String, Value>, Unusable> {
    value.as_object_mut().ok_or_else(|| "its manifest is no JSON object".to_owned())
}

fn digest(bytes: &[u8]) -> Digest {
    let hex = crate::digest::hex(&Sha256::digest(bytes));
    #[expect(clippy::expect_used, reason = "a SHA-256 in hexadecimal is a digest")]
    Digest::from_hex(&hex).expect("a SHA-256 has 64 digits")
}
