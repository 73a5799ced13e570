//! Applies one layer: bytes in, changes of the tree out.

use super::{
    Budget, Problem, Tree,
    archive::Archive,
    codec,
    entry::{Item, Node},
    limits::Flow,
    tree::Fresh,
};
use crate::{
    digest,
    error::{ImageError, Result},
};
use sha2::{Digest as _, Sha256};
use std::io::{self, BufReader, Read};

/// What a layer is said to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layer {
    /// How errors speak of it: its place and digest, or its file.
    pub(crate) name: String,
    /// SHA-256 of its bytes as they are stored, in hexadecimal; unchecked if absent.
    pub(crate) packed: Option<String>,
    /// SHA-256 of its bytes unpacked, in hexadecimal; unchecked if absent.
    pub(crate) unpacked: Option<String>,
}

/// Applies a layer and returns how many device nodes it has, which are left out.
///
/// # Errors
/// [`ImageError::LayerRefused`], in which case the tree is of no use.
pub(crate) fn apply(
    tree: &mut Tree,
    layer: &Layer,
    bytes: impl Read,
    budget: &mut Budget,
) -> Result<u64> {
    let mut at = String::new();
    run(tree, layer, bytes, budget, &mut at).map_err(|problem| ImageError::LayerRefused {
        layer: layer.name.clone(),
        entry: at,
        problem,
    })
}

fn run(
    tree: &mut Tree,
    layer: &Layer,
    bytes: impl Read,
    budget: &mut Budget,
    at: &mut String,
) -> Result<u64, Problem> {
    let flow = Flow::new(budget.limits());
    let mut packed = Hashing::new(flow.packed(bytes), layer.packed.is_some());
    let unpacked = codec::unpack(BufReader::with_capacity(128 << 10, &mut packed));
    let unpacked = flow.unpacked(unpacked.map_err(Problem::Unreadable)?);
    let mut unpacked = Hashing::new(unpacked, layer.unpacked.is_some());
    let devices =
        entries(tree, &mut unpacked, budget, at).map_err(|problem| flow.explain(problem))?;
    at.clear();
    // What follows the end of an archive counts for the digests.
    io::copy(&mut unpacked, &mut io::sink())
        .map_err(|error| flow.explain(Problem::Unreadable(error)))?;
    unpacked.check("unpacked digest", layer.unpacked.as_deref())?;
    drop(unpacked);
    io::copy(&mut packed, &mut io::sink()).map_err(Problem::Unreadable)?;
    packed.check("digest", layer.packed.as_deref())?;
    Ok(devices)
}

fn entries(
    tree: &mut Tree,
    bytes: impl Read,
    budget: &mut Budget,
    at: &mut String,
) -> Result<u64, Problem> {
    let mut archive = Archive::new(bytes);
    let mut fresh = Fresh::default();
    let mut devices = 0;
    while let Some(raw) = archive.next()? {
        *at = String::from_utf8_lossy(&raw.name).into_owned();
        budget.entry()?;
        match Item::of(raw)? {
            Item::Put { path, node, meta } => {
                if let Node::File(body) = &node {
                    budget.file(body.size)?;
                }
                tree.put(&path, &node, meta, &mut archive.content(), &mut fresh)?;
            }
            Item::Link { path, target } => tree.link(&path, &target, &mut fresh)?,
            Item::Hide { path } => tree.hide(&path, &mut fresh)?,
            Item::HideBelow { dir } => tree.hide_below(&dir, &mut fresh)?,
            Item::Device => devices += 1,
            Item::Nothing => {}
        }
    }
    Ok(devices)
}

/// Computes the digest of what is read through it, where one is wanted.
struct Hashing<R> {
    inner: R,
    hash: Option<Sha256>,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R, wanted: bool) -> Self {
        Self { inner, hash: wanted.then(Sha256::new) }
    }

    fn check(&mut self, what: &'static str, expected: Option<&str>) -> Result<(), Problem> {
        let (Some(hash), Some(expected)) = (self.hash.take(), expected) else { return Ok(()) };
        let found = digest::hex(&hash.finalize());
        if found == expected {
            return Ok(());
        }
        Err(Problem::Digest { what, expected: expected.to_owned(), found })
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(chunk)?;
        if let Some(hash) = &mut self.hash {
            hash.update(&chunk[..read]);
        }
        Ok(read)
    }
}
