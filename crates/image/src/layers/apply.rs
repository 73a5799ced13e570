//! Applies one layer: bytes in, changes of the tree out.

use super::{
    Budget, Problem, Tree,
    ahead::Ahead,
    archive::Archive,
    entry::{Item, Node},
    tree::Fresh,
};
use crate::error::{ImageError, Result};
use std::{
    io::{self, Read},
    thread,
};

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
    bytes: impl Read + Send,
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
    bytes: impl Read + Send,
    budget: &mut Budget,
    at: &mut String,
) -> Result<u64, Problem> {
    thread::scope(|scope| {
        let (mut ahead, reading) = Ahead::of(scope, layer, bytes, budget.limits())?;
        let devices = entries(tree, &mut ahead, budget, at).map_err(|it| ahead.explain(it))?;
        at.clear();
        // What follows the end of an archive counts for the digests.
        io::copy(&mut ahead, &mut io::sink())
            .map_err(|error| ahead.explain(Problem::Unreadable(error)))?;
        let digests = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        digests.check(layer)?;
        Ok(devices)
    })
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
            Item::Hide { path } => tree.hide(&path, &fresh)?,
            Item::HideBelow { dir } => tree.hide_below(&dir, &fresh)?,
            Item::Device => devices += 1,
            Item::Nothing => {}
        }
    }
    Ok(devices)
}
