//! Image layouts as registries and builders leave them, made by the tests: layers of whatever is needed.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{fs, io, path::Path};

/// An image of some layers.
pub(crate) struct Image {
    /// `config` of its configuration, such as `{ "User": "app" }`.
    pub(crate) config: Value,
    pub(crate) layers: Vec<Layer>,
}

impl Image {
    /// Writes an image layout that holds it alone.
    pub(crate) fn write(self, dir: &Path) {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let put = |bytes: &[u8]| {
            let digest: String =
                Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            fs::write(blobs.join(&digest), bytes).unwrap();
            json!({ "digest": format!("sha256:{digest}"), "size": bytes.len() })
        };
        let layers: Vec<Value> =
            self.layers.into_iter().map(|layer| put(&layer.0.into_inner().unwrap())).collect();
        let diffs: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "os": "linux", "architecture": architecture, "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diffs },
        });
        let config = put(config.to_string().as_bytes());
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        let manifest = put(manifest.to_string().as_bytes());
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(dir.join("index.json"), index.to_string()).unwrap();
    }
}

/// A layer, entry by entry. Root owns what nobody else does.
pub(crate) struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(crate) fn dir(mut self, path: &str, mode: u32, owner: u64) -> Self {
        let mut header = header(tar::EntryType::Directory, mode, owner);
        self.0.append_data(&mut header, path, io::empty()).unwrap();
        self
    }

    pub(crate) fn file(mut self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        let mut header = header(tar::EntryType::Regular, mode, 0);
        let content = content.as_ref();
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, path, content).unwrap();
        self
    }

    /// A program of this host.
    pub(crate) fn program(self, path: &str, from: &Path) -> Self {
        let content = fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        self.file(path, 0o755, content)
    }

    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        self.linked(tar::EntryType::Symlink, path, target)
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.linked(tar::EntryType::Link, path, target)
    }

    fn linked(mut self, kind: tar::EntryType, path: &str, target: &str) -> Self {
        self.0.append_link(&mut header(kind, 0o777, 0), path, target).unwrap();
        self
    }
}

fn header(kind: tar::EntryType, mode: u32, owner: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_size(0);
    header
}
