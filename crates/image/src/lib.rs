//! What VMs start from: kernels, initramfs, root filesystems, templates, and blank disks.
//!
//! # Templates
//! A [`TemplateStore`] keeps templates by their content, and names that point to them. Each is a
//! kernel, an initramfs with the guest agent as `/init`, a read-only root filesystem and a manifest
//! ([`aetherium_model::template::Template`]). [`build()`] makes one from a [`BuildRequest`]: the kernel
//! from the distribution's package or from files, the root filesystem from packages, a directory, an
//! ext4 image, or an image as containers have them. Nothing is installed on the host, nothing is
//! mounted where the host could see it, and but for `mmdebstrap`'s own needs nothing asks for root.
//!
//! What is in the store never changes: to replace a template is to make its name point to another.
//! [`TemplateStore::hold`] keeps one for a VM or a disk that depends on it, and
//! [`TemplateStore::collect`] removes what nothing depends on. A build that dies leaves a staging
//! directory that the next one removes.
//!
//! A [`recipe`] makes a template of a base by steps: a [`Draft`] holds the base while whoever has a
//! driver runs them.
//!
//! # A VM's own part
//! Two files are made per VM, in milliseconds: its writable disk, cloned by [`BlankDisks`], and its
//! initramfs, the template's followed by one more [`cpio::segment`] with what is the VM's own. The
//! guest lays the disk over the root filesystem.
//!
//! # What this crate must never do
//! Mount, install or change anything on the host outside the directories it is given; start a VM;
//! or know which VMM will.

mod agent;
mod artifact;
pub mod blank;
pub mod build;
mod command;
pub mod cpio;
mod derived;
mod digest;
pub mod disk;
mod distribution;
mod draft;
pub mod error;
mod ext4;
mod inherit;
mod initramfs;
mod install;
pub mod kernel;
mod layers;
mod lock;
mod modules;
mod oci;
pub mod prepare;
mod progress;
pub mod recipe;
mod rootfs;
mod sparse;
mod staging;
pub mod store;
mod superblock;

pub use artifact::{Packing, Placement, Pushed, export, export_to, import, pull, push};
pub use blank::BlankDisks;
pub use build::{BuildRequest, KernelSource, RootfsSource, build, build_as};
pub use derived::{derived_name, is_derived};
pub use digest::of_file as sha256_of_file;
pub use disk::{DiskArchive, DiskCopy};
pub use draft::Draft;
pub use error::{ImageError, Result};
pub use initramfs::of_agent as agent_initramfs;
pub use install::Stamp as AgentStamp;
pub use layers::Problem as LayerProblem;
pub use oci::{
    BlobCache, Credentials, ImageOrigin, ImageReference, Mirror, OriginInvalid, RegistryAccess,
    install_tls,
};
pub use progress::{Progress, Silent};
pub use rootfs::root_filesystem;
pub use sparse::{copy_sparse, lay_over};
pub use store::{
    Check, Collected, Discarded, Holder, InstalledTemplate, Keep, Listed, Removal, TemplateStore,
    Use,
};
