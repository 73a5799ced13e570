//! The grammar of `aetherium template`.

use super::{TuningArgs, parse::file};
use aetherium_image::{ImageOrigin, Mirror};
use aetherium_model::{
    Name,
    resources::{DiskMib, MemoryMib, Vcpus, VirtioTransport},
};
use clap::{Args as ClapArgs, Subcommand};
use std::path::PathBuf;

/// Verbs on templates.
#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// Make one: the kernel from this distribution's package, the root filesystem from its packages,
    /// or from an image, archive or directory. Without root where possible.
    #[command(after_help = "Examples:
  aetherium template build                                          this distribution, small
  aetherium template build py --from docker.io/library/python:3     an image of a registry
  aetherium template build app --from oci:build/image:v1            an OCI image layout
  aetherium template build app --from docker-archive:saved.tar      what `docker save` wrote
  aetherium template build base --from tar:rootfs.tar.zst           a root filesystem in a tar file
  aetherium template build base --from dir:/srv/rootfs              one in a directory
  aetherium template build a --from alpine:3 --mirror docker.io=127.0.0.1:5000

Registries are logged in to as `docker login` did ($DOCKER_CONFIG, else ~/.docker/config.json), or
with AETHERIUM_REGISTRY_USERNAME and AETHERIUM_REGISTRY_PASSWORD.")]
    Build(Box<BuildArgs>),
    /// List those of the data directory.
    List,
    /// Show one.
    Get {
        /// Its name.
        name: Name,
    },
    /// Remove one; VMs that run from it go on.
    Remove {
        /// Its name.
        name: Name,
    },
}

/// Arguments of `template build`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct BuildArgs {
    /// Its name.
    #[arg(default_value = "default")]
    pub(crate) name: Name,
    /// A package to put into the root filesystem besides the base; may be repeated.
    #[arg(long, value_name = "PACKAGE")]
    pub(crate) include: Vec<String>,
    /// A kernel of your own (ELF or bzImage) instead of the distribution's.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// That kernel's modules: a lib/modules/RELEASE directory.
    #[arg(long, value_name = "DIR", requires = "kernel")]
    pub(crate) modules: Option<PathBuf>,
    /// A root filesystem of your own instead of the distribution's: a directory or an ext4 image.
    #[arg(long, value_name = "PATH", conflicts_with = "include")]
    pub(crate) rootfs: Option<PathBuf>,
    /// An image to make the root filesystem of, instead of the distribution's packages:
    /// oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, tar:FILE, dir:DIR, or the name of an
    /// image in a registry.
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["include", "rootfs"])]
    pub(crate) from: Option<ImageOrigin>,
    /// A registry's mirror, asked before the registry itself; may be repeated, the first is asked
    /// first.
    #[arg(long, value_name = "REGISTRY=HOST[:PORT]", requires = "from")]
    pub(crate) mirror: Vec<Mirror>,
    /// A kernel argument for its VMs; may be repeated.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) kernel_arg: Vec<String>,
    /// What the CPUs of its VMs are made to look like: a custom CPU template of Firecracker, in JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) cpu_template: Option<PathBuf>,
    /// How the devices of its VMs are attached: `pci` or `mmio`; as fits best where absent.
    #[arg(long)]
    pub(crate) transport: Option<VirtioTransport>,
    /// Virtual CPUs of its VMs by default.
    #[arg(long)]
    pub(crate) vcpus: Option<Vcpus>,
    /// Memory of its VMs by default, in MiB.
    #[arg(long, value_name = "MIB")]
    pub(crate) memory_mib: Option<MemoryMib>,
    /// Writable disk of its VMs by default, in MiB.
    #[arg(long, value_name = "MIB")]
    pub(crate) disk_mib: Option<DiskMib>,
    #[command(flatten)]
    pub(crate) tuning: TuningArgs,
    /// Replace one of that name.
    #[arg(long)]
    pub(crate) replace: bool,
    /// The guest agent's static binary; else fc-agent beside this program.
    #[arg(long, env = "AETHERIUM_AGENT", value_name = "FILE", value_parser = file)]
    pub(crate) agent: Option<PathBuf>,
}
