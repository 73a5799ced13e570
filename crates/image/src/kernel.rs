//! Kernels: what an image file is, what it can do, and where its modules are.

pub(crate) mod belongs;
mod config;
mod facts;
pub mod image;
pub(crate) mod needs;
pub(crate) mod package;
mod payload;
mod shelf;
mod source;
mod toolchain;

pub use facts::{Examined, Unpacked, elf_image, examine, examine_with};
pub use image::{KernelImage, inspect};
pub use needs::{findings, how};
pub use shelf::{KernelOrigin, KernelShelf, ShelvedKernel};
pub use source::{BaseConfig, Configured, KernelBuild, KernelCode, LEAN_CONFIG};

use std::path::PathBuf;

/// A kernel at hand, whatever it came from.
#[derive(Debug, Clone)]
pub(crate) struct KernelFiles {
    pub(crate) image: PathBuf,
    /// As in `/lib/modules/<release>`; `None` for a kernel that needs none.
    pub(crate) modules: Option<PathBuf>,
}
