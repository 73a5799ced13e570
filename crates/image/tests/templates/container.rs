//! Container images made by the tests: layers, a configuration, a layout or an archive of them.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, fs, io::Write as _, path::Path};
use tar::{EntryType, Header};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layer being made.
pub(crate) struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(crate) fn entry(self, kind: EntryType, name: &str, link: &str, content: &[u8]) -> Self {
        let mode = if kind == EntryType::Directory { 0o755 } else { 0o644 };
        self.owned(kind, name, link, content, mode, 0)
    }

    pub(crate) fn owned(
        mut self,
        kind: EntryType,
        name: &str,
        link: &str,
        content: &[u8],
        mode: u32,
        owner: u64,
    ) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name, "", content.as_bytes())
    }

    pub(crate) fn program(self, name: &str, content: &[u8]) -> Self {
        self.owned(EntryType::Regular, name, "", content, 0o755, 0)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, b"")
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// An image: its layers, its configuration, its manifest, each a blob.
pub(crate) struct Container {
    /// The blobs, by digest.
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) layers: Vec<String>,
    unpacked: Vec<Vec<u8>>,
    run: Value,
    architecture: &'static str,
}

impl Container {
    pub(crate) fn new(layers: impl IntoIterator<Item = Layer>) -> Self {
        let mut image = Self {
            blobs: BTreeMap::new(),
            layers: Vec::new(),
            unpacked: Vec::new(),
            run: json!({}),
            architecture: if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        };
        for layer in layers {
            let bytes = layer.bytes();
            let digest = image.blob(gzip(&bytes));
            image.layers.push(digest);
            image.unpacked.push(bytes);
        }
        image
    }

    /// What its commands get.
    pub(crate) fn run(mut self, run: Value) -> Self {
        self.run = run;
        self
    }

    pub(crate) fn architecture(mut self, architecture: &'static str) -> Self {
        self.architecture = architecture;
        self
    }

    pub(crate) fn blob(&mut self, bytes: Vec<u8>) -> String {
        let digest = digest(&bytes);
        self.blobs.insert(digest.clone(), bytes);
        digest
    }

    fn config(&self) -> Vec<u8> {
        let unpacked: Vec<_> = self.unpacked.iter().map(|bytes| digest(bytes)).collect();
        json!({
            "architecture": self.architecture, "os": "linux", "config": self.run,
            "rootfs": { "type": "layers", "diff_ids": unpacked },
        })
        .to_string()
        .into_bytes()
    }

    /// Makes the manifest and gives its digest.
    pub(crate) fn manifest(&mut self) -> String {
        let config = self.blob(self.config());
        let descriptor = |kind: &str, digest: &String| {
            let size = self.blobs[digest].len();
            json!({ "mediaType": format!("application/vnd.oci.image.{kind}"),
                    "digest": digest, "size": size })
        };
        let layers: Vec<_> =
            self.layers.iter().map(|digest| descriptor("layer.v1.tar+gzip", digest)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor("config.v1+json", &config), "layers": layers,
        });
        self.blob(manifest.to_string().into_bytes())
    }

    /// Writes an image layout.
    pub(crate) fn write_layout(mut self, dir: &Path) {
        let manifest = self.manifest();
        let size = self.blobs[&manifest].len();
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = json!({ "schemaVersion": 2, "manifests": [{
            "mediaType": MANIFEST, "digest": manifest, "size": size,
            "annotations": { "org.opencontainers.image.ref.name": "v1" } }] });
        fs::write(dir.join("index.json"), index.to_string()).unwrap();
        for (digest, bytes) in &self.blobs {
            fs::write(dir.join("blobs").join(digest.replace(':', "/")), bytes).unwrap();
        }
    }

    /// Writes what `docker save` wrote before Docker 25.
    pub(crate) fn write_docker_archive(&self, file: &Path) {
        let mut archive = tar::Builder::new(fs::File::create(file).unwrap());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, bytes).unwrap();
        };
        let paths: Vec<_> = (0..self.unpacked.len()).map(|n| format!("{n}/layer.tar")).collect();
        for (path, bytes) in paths.iter().zip(&self.unpacked) {
            add(path, bytes);
        }
        add("config.json", &self.config());
        let manifest =
            json!([{ "Config": "config.json", "RepoTags": ["test:1"], "Layers": paths }]);
        add("manifest.json", manifest.to_string().as_bytes());
        archive.finish().unwrap();
    }
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}
