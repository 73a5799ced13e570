//! How much memory a guest needs to begin. A kernel that has less resets before its console works, so
//! nothing else can tell.

use crate::{GuestKernel, VmmError};
use std::{fs, path::Path};

/// Bytes of guest memory below which the kernel cannot begin with this initramfs.
///
/// # Errors
/// When one of them cannot be looked at.
pub(crate) fn boot_needs_bytes(kernel: &GuestKernel, initrd: &Path) -> Result<u64, VmmError> {
    let length =
        |path: &Path| fs::metadata(path).map(|it| it.len()).map_err(VmmError::io("look at", path));
    length(&kernel.image)?;
    Ok(kernel.facts.needs_bytes.saturating_add(length(initrd)?))
}
