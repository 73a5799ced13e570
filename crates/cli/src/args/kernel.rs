//! The grammar of `aetherium kernel`.

use aetherium_model::Name;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use std::{num::NonZeroUsize, path::PathBuf};

/// Verbs on kernels.
#[derive(Debug, Subcommand)]
pub(crate) enum KernelCommand {
    /// Tell what a kernel is and what it can boot: its release, format and configuration, and which
    /// virtio devices it has built in, as modules, or not at all.
    Inspect {
        /// A file (ELF or bzImage), or the name of an imported one.
        #[arg(value_name = "FILE|NAME")]
        kernel: PathBuf,
        /// Its configuration, where it is neither inside the image nor beside it.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Keep a kernel in the data directory, for `template build --kernel NAME`.
    #[command(after_help = "Examples:
  aetherium kernel import vmlinux --name lab
  aetherium kernel import vmlinuz-6.1.0 --modules /lib/modules/6.1.0
  aetherium kernel import linux-image-6.1.0-*.deb        a package with its modules; not installed
  aetherium kernel import --distribution                 the distribution's own, for VMs")]
    Import(ImportArgs),
    /// Build a lean kernel from the distribution's kernel source and keep it: everything a microVM needs
    /// built in, so that it boots fast. Takes long, and room for a kernel's source and build.
    Build(KernelBuildArgs),
    /// List those of the data directory.
    List,
    /// Remove one; templates made of it go on.
    Remove {
        /// Its name.
        name: Name,
    },
}

/// Arguments of `kernel import`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct ImportArgs {
    /// A kernel image, or the package files (.deb) that have it and its modules.
    #[arg(value_name = "FILE", required_unless_present = "distribution")]
    pub(crate) files: Vec<PathBuf>,
    /// Take the package that this host's distribution has for virtual machines.
    #[arg(long, conflicts_with = "files")]
    pub(crate) distribution: bool,
    /// Its name; else its release.
    #[arg(long)]
    pub(crate) name: Option<Name>,
    /// The image's modules: a lib/modules/RELEASE directory.
    #[arg(long, value_name = "DIR", conflicts_with = "distribution")]
    pub(crate) modules: Option<PathBuf>,
    /// The image's configuration, where it is neither inside it nor beside it.
    #[arg(long, value_name = "FILE", conflicts_with = "distribution")]
    pub(crate) config: Option<PathBuf>,
    /// Replace one of that name.
    #[arg(long)]
    pub(crate) replace: bool,
}

/// What the lean configuration is laid over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Base {
    /// `make tinyconfig`: what is not asked for is off.
    #[default]
    Tiny,
    /// `make defconfig`: what most machines need; larger and slower.
    Default,
}

/// Arguments of `kernel build`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct KernelBuildArgs {
    /// Its name.
    #[arg(default_value = "lean")]
    pub(crate) name: Name,
    /// What the lean configuration is laid over.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) base: Base,
    /// More options, as lines CONFIG_X=y; they go before those of the lean configuration.
    #[arg(long, value_name = "FILE")]
    pub(crate) fragment: Option<PathBuf>,
    /// A kernel source tree, instead of the distribution's package.
    #[arg(long, value_name = "DIR")]
    pub(crate) source: Option<PathBuf>,
    /// Where to build; else in the data directory, where it is removed afterwards.
    #[arg(long, value_name = "DIR")]
    pub(crate) work: Option<PathBuf>,
    /// How many compilers run at once; else one for each CPU.
    #[arg(short, long, value_name = "COUNT")]
    pub(crate) jobs: Option<NonZeroUsize>,
    /// Stop when the configuration is made and checked.
    #[arg(long)]
    pub(crate) configure_only: bool,
    /// Replace one of that name.
    #[arg(long)]
    pub(crate) replace: bool,
}
