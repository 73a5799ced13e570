//! The root filesystem of a template that is being made: copied, given room, and sealed again.
//!
//! ```text
//! rootfs.ext4 ─ writable_copy ─► a guest changes it and ends ─ settle ─► whole, holes where nothing is
//!                                                            └─ seal ──► as small as it can be
//! ```
//! All by the tools of e2fsprogs on a file: nothing is mounted.

use crate::{
    error::{ImageError, OnPath, Result},
    ext4,
    sparse::copy_sparse,
};
use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
};

/// Copies a root filesystem to `to`, with room for at least `room_mib` more.
///
/// # Errors
/// It cannot be copied, or not grown.
pub async fn writable_copy(from: &Path, to: &Path, room_mib: u32) -> Result<()> {
    copy_sparse(from, to).await?;
    let size = fs::metadata(to).on("look at", to)?.len();
    ext4::grow(to, size + (u64::from(room_mib) << 20)).await
}

/// The UUID by which a guest finds it.
///
/// # Errors
/// It is no ext4 image.
pub async fn uuid(image: &Path) -> Result<String> {
    ext4::uuid_of(image).await
}

/// Makes sure that what a guest left is whole, and gives back what it freed. It is this process's file
/// again: a jailed VMM had it for its own.
///
/// # Errors
/// [`ImageError::RootfsUnusable`] where it is not: the guest did not end in order.
pub async fn settle(image: &Path) -> Result<()> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    chown(image, Some(user.as_raw()), Some(group.as_raw())).on("own", image)?;
    ext4::discard_free(image).await.map_err(|error| match error {
        ImageError::CommandFailed { tail, .. } => {
            let detail = format!("the guest did not leave it whole: {}", tail.join("; "));
            ImageError::RootfsUnusable { path: image.to_owned(), detail }
        }
        other => other,
    })
}

/// Makes it as small as it can be, to be mounted read-only from now on.
///
/// # Errors
/// It cannot be shrunk, or is not whole afterwards.
pub async fn seal(image: &Path) -> Result<()> {
    ext4::shrink(image).await?;
    ext4::check(image).await?;
    fs::set_permissions(image, Permissions::from_mode(0o644)).on("set permissions of", image)
}
