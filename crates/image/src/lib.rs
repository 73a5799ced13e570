//! What VMs start from: kernels, initramfs, root filesystems, templates, and blank disks.
//!
//! # Templates
//! A [`TemplateStore`] is a directory of templates, each a kernel, an initramfs with the guest agent
//! as `/init`, a read-only root filesystem and a manifest ([`aetherium_model::template::Template`]).
//! [`build()`] makes one from a [`BuildRequest`]: the kernel from the distribution's package or from
//! files, the root filesystem from packages, a directory, an ext4 image, or an image as containers
//! have them. Nothing is installed on the host, nothing is mounted where the host could see it, and but for `mmdebstrap`'s own needs
//! nothing asks for root.
//!
//! A template is put in place whole by one rename and never changed after: to replace one is to
//! exchange its directory, and VMs that run from the old one keep its files. A build that dies
//! leaves a staging directory that the next one removes.
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
pub mod blank;
pub mod build;
mod command;
pub mod cpio;
mod digest;
mod distribution;
pub mod error;
mod ext4;
mod initramfs;
mod install;
pub mod kernel;
mod layers;
mod lock;
mod modules;
mod oci;
pub mod prepare;
mod progress;
mod rootfs;
mod sparse;
mod staging;
pub mod store;
mod superblock;

pub use blank::BlankDisks;
pub use build::{BuildRequest, KernelSource, RootfsSource, build};
pub use digest::of_file as sha256_of_file;
pub use error::{ImageError, Result};
pub use initramfs::of_agent as agent_initramfs;
pub use install::Stamp as AgentStamp;
pub use layers::Problem as LayerProblem;
pub use oci::{
    BlobCache, Credentials, ImageOrigin, ImageReference, Mirror, OriginInvalid, RegistryAccess,
};
pub use progress::{Progress, Silent};
pub use sparse::copy_sparse;
pub use store::{Check, InstalledTemplate, TemplateStore};
