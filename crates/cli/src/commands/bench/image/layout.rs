//! An OCI image layout made for measuring: some large files, many small ones, three layers.

use super::{remade, run};
use crate::error::{CliError, local};
use rand::Rng as _;
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A third of the bytes is in large files, as of programs and libraries; the rest in small ones.
const LARGE_FILE_BYTES: usize = 8 << 20;
const SMALL_FILE_BYTES: usize = 6 << 10;
const FILES_PER_DIR: usize = 64;

/// How layers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// As they are.
    Plain,
    /// As registries have them.
    Gzip,
}

impl Packing {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
        }
    }
}

/// The layers as tar files, from which layouts are made.
pub(super) struct Layers {
    plain: Vec<PathBuf>,
}

/// An image layout, and its layers as `tar` can be given them.
pub(super) struct Layout {
    pub(super) dir: PathBuf,
    pub(super) layers: Vec<PathBuf>,
}

impl Layers {
    /// Writes about so many MiB of files into `work` and packs them into layers.
    pub(super) fn make(work: &Path, mib: u64) -> Result<Self, CliError> {
        let total = usize::try_from(mib << 20).unwrap_or(usize::MAX);
        let large = total / 3 / LARGE_FILE_BYTES;
        let small = (total - large * LARGE_FILE_BYTES) / SMALL_FILE_BYTES;
        let parts = [
            ("lib", large, LARGE_FILE_BYTES),
            ("share", small / 2, SMALL_FILE_BYTES),
            ("app", small / 2, SMALL_FILE_BYTES),
        ];
        let tree = work.join("tree");
        let mut plain = Vec::new();
        for (name, count, bytes) in parts {
            remade(&tree)?;
            write_files(&tree.join(name), count, bytes)?;
            let layer = work.join(format!("{name}.tar"));
            run(Command::new("tar")
                .args(["--owner=0", "--group=0", "-cf"])
                .arg(&layer)
                .arg("-C")
                .arg(&tree)
                .arg(name))?;
            plain.push(layer);
        }
        fs::remove_dir_all(&tree).map_err(|error| local(tree.display(), error))?;
        Ok(Self { plain })
    }

    /// Makes a layout of them in `dir`.
    pub(super) fn layout(&self, dir: PathBuf, packing: Packing) -> Result<Layout, CliError> {
        let blobs = dir.join("blobs/sha256");
        remade(&blobs)?;
        let (mut described, mut unpacked, mut layers) = (Vec::new(), Vec::new(), Vec::new());
        for layer in &self.plain {
            unpacked.push(format!("sha256:{}", digest(layer)?));
            let blob = dir.join("layer");
            pack(layer, &blob, packing)?;
            let (path, descriptor) = put(&blobs, &blob)?;
            layers.push(path);
            described.push(descriptor);
        }
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "os": "linux", "architecture": architecture, "config": {},
            "rootfs": { "type": "layers", "diff_ids": unpacked },
        });
        let config = put_document(&dir, &blobs, &config)?;
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": described });
        let manifest = put_document(&dir, &blobs, &manifest)?;
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        write(&dir.join("index.json"), index.to_string().as_bytes())?;
        Ok(Layout { dir, layers })
    }
}

/// Text of random numbers, which packs to about half, as programs and libraries do.
fn write_files(dir: &Path, count: usize, bytes: usize) -> Result<(), CliError> {
    let mut random = rand::rng();
    let mut content = vec![0; bytes];
    for n in 0..count {
        if n % FILES_PER_DIR == 0 {
            let sub = dir.join((n / FILES_PER_DIR).to_string());
            fs::create_dir_all(&sub).map_err(|error| local(sub.display(), error))?;
        }
        random.fill_bytes(&mut content);
        for byte in &mut content {
            *byte = b"0123456789abcdef"[usize::from(*byte & 15)];
        }
        write(&dir.join((n / FILES_PER_DIR).to_string()).join(n.to_string()), &content)?;
    }
    Ok(())
}

fn pack(layer: &Path, to: &Path, packing: Packing) -> Result<(), CliError> {
    match packing {
        Packing::Plain => {
            fs::hard_link(layer, to).map_err(|error| local(to.display(), error))?;
        }
        Packing::Gzip => {
            let file = fs::File::create(to).map_err(|error| local(to.display(), error))?;
            let status = Command::new("gzip").arg("-1c").arg(layer).stdout(file).status();
            if !status.map_err(|error| local("gzip", error))?.success() {
                return Err(local(layer.display(), "gzip cannot pack it").into());
            }
        }
    }
    Ok(())
}

fn put_document(
    dir: &Path,
    blobs: &Path,
    document: &serde_json::Value,
) -> Result<serde_json::Value, CliError> {
    let file = dir.join("document");
    write(&file, document.to_string().as_bytes())?;
    Ok(put(blobs, &file)?.1)
}

/// Moves a file among the blobs and describes it.
fn put(blobs: &Path, file: &Path) -> Result<(PathBuf, serde_json::Value), CliError> {
    let io = |error| local(file.display(), error);
    let (hex, size) = (digest(file)?, fs::metadata(file).map_err(io)?.len());
    let path = blobs.join(&hex);
    fs::rename(file, &path).map_err(io)?;
    Ok((path, json!({ "digest": format!("sha256:{hex}"), "size": size })))
}

fn digest(file: &Path) -> Result<String, CliError> {
    let printed = run(Command::new("sha256sum").arg(file))?;
    Ok(printed.split_whitespace().next().unwrap_or_default().to_owned())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    Ok(fs::write(path, bytes).map_err(|error| local(path.display(), error))?)
}
