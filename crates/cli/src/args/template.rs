//! The grammar of `aetherium template`.

use super::{DriverArgs, TuningArgs, parse::duration};
use aetherium_image::{ImageOrigin, ImageReference, Mirror};
use aetherium_model::{
    TemplateRef,
    resources::{DiskMib, MemoryMib, Vcpus, VirtioTransport},
    vm::SnapshotKind,
};
use clap::{Args as ClapArgs, Subcommand};
use std::{path::PathBuf, time::Duration};

/// Downloaded layers that are kept: some tens of images.
pub(crate) const DEFAULT_BLOB_CACHE_MIB: u32 = 10 << 10;

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
  aetherium template build app -f template.toml                     a recipe: base, files, commands
  aetherium template build app -f template.toml --remote            the same, by the server
  aetherium template build a --from alpine:3 --mirror docker.io=127.0.0.1:5000

Registries are logged in to as `docker login` did ($DOCKER_CONFIG, else ~/.docker/config.json), or
with AETHERIUM_REGISTRY_USERNAME and AETHERIUM_REGISTRY_PASSWORD.")]
    Build(Box<BuildArgs>),
    /// List those of the data directory: what each is, who uses it, whether it was verified and
    /// booted.
    List {
        /// Those, too, that were made for workspaces' tools.
        #[arg(long)]
        all: bool,
    },
    /// Print the manifest of one.
    #[command(visible_alias = "show")]
    Get {
        /// NAME, NAME:TAG or NAME@sha256:DIGEST.
        template: TemplateRef,
    },
    /// Show all that is known about one, and where its files are.
    Inspect {
        /// NAME, NAME:TAG or NAME@sha256:DIGEST.
        template: TemplateRef,
        /// Read its files, and see that each has the content that was built.
        #[arg(long)]
        verify: bool,
    },
    /// Give one another name or tag, whatever had it before.
    Tag {
        /// NAME, NAME:TAG or NAME@sha256:DIGEST.
        template: TemplateRef,
        /// The new name: NAME or NAME:TAG.
        to: TemplateRef,
    },
    /// Take a name or tag away; VMs that run from it go on, and its files stay until `gc`.
    Remove {
        /// NAME or NAME:TAG.
        template: TemplateRef,
    },
    /// Remove the templates that have no tag, or were made for tools, and that no VM, workspace or
    /// snapshot uses.
    Gc {
        /// Only say what would be removed.
        #[arg(long)]
        dry_run: bool,
        /// Keep the newest N templates of each name, tagged or not.
        #[arg(long, value_name = "N", default_value_t = 0)]
        keep_last: usize,
        /// Keep those that were made for tools within this time, such as `12h`.
        #[arg(long, default_value = "168h", value_parser = duration, value_name = "TIME")]
        keep_tools: Duration,
    },
    /// Write one to standard output or into a file, as a tar archive with an OCI image layout.
    #[command(after_help = "Examples:
  aetherium template export base > base.tar
  aetherium template export base:v1 --output base.tar")]
    Export {
        /// NAME, NAME:TAG or NAME@sha256:DIGEST.
        template: TemplateRef,
        /// The file, which appears whole or not at all; else standard output.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Pack its files with zstd instead of gzip: smaller and faster, for tools that read it.
        #[arg(long)]
        zstd: bool,
    },
    /// Take one from what `export` wrote, plain or packed with gzip or zstd.
    Import {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Push one to an OCI registry, as an artifact.
    Push {
        /// NAME, NAME:TAG or NAME@sha256:DIGEST.
        template: TemplateRef,
        /// Where to: registry.example/team/base:v1.
        to: ImageReference,
    },
    /// Pull one from an OCI registry that `push` has sent there.
    Pull {
        /// Where from: registry.example/team/base:v1.
        from: ImageReference,
        #[command(flatten)]
        place: PlaceArgs,
        /// A registry's mirror, asked before the registry itself; may be repeated.
        #[arg(long, value_name = "REGISTRY=HOST[:PORT]")]
        mirror: Vec<Mirror>,
    },
    /// Boot one and see that it works: agent, clock, DNS settings, disk, commands. The verdict is
    /// kept with the template.
    Test {
        /// NAME, NAME:TAG or NAME@sha256:DIGEST.
        #[arg(default_value = "default")]
        template: TemplateRef,
        #[command(flatten)]
        driver: DriverArgs,
        /// How long the VM may take until its agent answers.
        #[arg(long, default_value = "90s", value_parser = duration, value_name = "TIME")]
        boot_deadline: Duration,
    },
}

/// Under which name a template is taken in.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct PlaceArgs {
    /// NAME or NAME:TAG; else the name it was exported or pushed under.
    #[arg(long = "as", value_name = "NAME[:TAG]")]
    pub(crate) name: Option<TemplateRef>,
    /// Let the name point to it though it has pointed to another one.
    #[arg(long)]
    pub(crate) replace: bool,
}

/// Arguments of `template build`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct BuildArgs {
    /// Its name: NAME or NAME:TAG.
    #[arg(default_value = "default")]
    pub(crate) name: TemplateRef,
    /// A recipe in TOML: a base, and steps that run in VMs of it. See docs/templates.md.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["include", "rootfs", "from"])]
    pub(crate) file: Option<PathBuf>,
    /// Run every step of the recipe, though its result is kept from an earlier build.
    #[arg(long, requires = "file")]
    pub(crate) no_cache: bool,
    /// Have the recipe built by a worker of the server, and follow it. Files beside the recipe are sent
    /// with it. Steps run in VMs of the worker, with its driver and its registry logins.
    #[arg(long, requires = "file", conflicts_with_all = [
        "no_cache", "kernel", "modules", "kernel_of", "mirror", "kernel_arg", "cpu_template",
        "transport", "snapshots", "balloon_mib", "huge_pages", "LimitArgs",
    ])]
    pub(crate) remote: bool,
    /// A package to put into the root filesystem besides the base; may be repeated.
    #[arg(long, value_name = "PACKAGE")]
    pub(crate) include: Vec<String>,
    /// A kernel of your own instead of the distribution's: a file (ELF or bzImage), or the name of an
    /// imported one.
    #[arg(long, value_name = "FILE|NAME")]
    pub(crate) kernel: Option<PathBuf>,
    /// That kernel's modules: a lib/modules/RELEASE directory.
    #[arg(long, value_name = "DIR", requires = "kernel")]
    pub(crate) modules: Option<PathBuf>,
    /// Take kernel and modules over from another template: nothing is downloaded or unpacked.
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "kernel")]
    pub(crate) kernel_of: Option<TemplateRef>,
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
    #[arg(long, value_name = "REGISTRY=HOST[:PORT]")]
    pub(crate) mirror: Vec<Mirror>,
    /// How much of what was downloaded from registries is kept for the next build, in MiB; beyond
    /// that the least recently used goes.
    #[arg(
        long,
        env = "AETHERIUM_BLOB_CACHE_MIB",
        default_value_t = DEFAULT_BLOB_CACHE_MIB,
        value_name = "MIB"
    )]
    pub(crate) blob_cache_mib: u32,
    /// A kernel argument for its VMs; may be repeated.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) kernel_arg: Vec<String>,
    /// What the CPUs of its VMs are made to look like: a custom CPU template of Firecracker, in JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) cpu_template: Option<PathBuf>,
    /// How the devices of its VMs are attached: `pci` or `mmio`; as fits best where absent.
    #[arg(long)]
    pub(crate) transport: Option<VirtioTransport>,
    /// The snapshots that its VMs are made ready for: `full` or `diff`.
    #[arg(long, value_name = "KIND")]
    pub(crate) snapshots: Option<SnapshotKind>,
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
    /// What runs the steps of a recipe.
    #[command(flatten)]
    pub(crate) driver: DriverArgs,
}
