//! Image layers, laid one over the other in a directory.
//!
//! A layer is a tar stream, plain or compressed, made by somebody unknown. It is read once, entry by
//! entry, and each entry changes a [`Tree`]:
//!
//! ```text
//! bytes ─► Ahead: digests, gzip│zstd│plain, limits      in a thread of its own
//!           └─► tar entries ─parse─► Item ─► Tree (put, hide, hide lower)
//!                                             └─ seal: owners, modes, times
//! ```
//! While layers are applied, everything in the tree belongs to this process and only it can enter.
//! Owners, modes and extended attributes are put on at the end ([`Tree::seal`]); without root they are
//! written into a file for `fakeroot`.
//!
//! # What a hostile layer cannot do
//! - **Get out of the tree.** Parents are resolved by the kernel with the tree as their root
//!   (`openat2` with `RESOLVE_IN_ROOT`), as if the process were confined there; the last part of a
//!   name is never followed. So links may point where they like, as they do in real images.
//! - **Exhaust memory, disk or time.** Bytes, entries, depth, names and the ratio of unpacked to
//!   packed bytes have limits ([`Limits`]).
//! - **Bring devices.** Device nodes are left out: the guest's kernel fills `/dev`.
//!
//! A refusal names the layer, the entry and the reason. This module must never follow a path outside
//! the tree, nor run anything.

mod ahead;
mod apply;
mod archive;
mod codec;
mod entry;
mod limits;
mod path;
mod problem;
mod seal;
mod sparse;
mod tree;

#[cfg(test)]
mod tests;

pub(crate) use apply::{Layer, apply};
pub(crate) use limits::{Budget, Limits};
pub(crate) use path::TreePath;
pub use problem::Problem;
pub(crate) use seal::Ownership;
pub(crate) use tree::Tree;
