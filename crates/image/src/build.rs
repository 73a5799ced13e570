//! Makes a template out of a kernel, an agent and a root filesystem.
//!
//! All work is done in a staging directory inside the store's, which then takes the files over. A build
//! that is cancelled or killed at any point leaves the store as it was, but for a staging directory
//! that the next one removes.

use crate::{
    agent::Agent,
    digest,
    distribution::Distribution,
    draft::{Draft, Parts},
    error::{ImageError, OnPath, Result, blocking},
    inherit, initramfs, kernel,
    kernel::{Examined, KernelFiles, Unpacked, needs},
    oci::{self, ImageOrigin, RegistryAccess},
    progress::Progress,
    rootfs,
    store::{
        INITRAMFS_FILE, InstalledTemplate, KERNEL_ELF_FILE, KERNEL_FILE, ROOTFS_FILE, TemplateStore,
    },
};
use aetherium_model::{
    Name, TemplateRef, Timestamp,
    finding::Finding,
    resources::{Resources, VirtioTransport},
    template::{
        CpuTemplate, ImageDefaults, Initramfs, Kernel, MANIFEST_FORMAT, RootFilesystem, Template,
    },
    tuning::Tuning,
    vm::SnapshotKind,
};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// How long another build of the same template is waited for.
pub(crate) const LOCK_PATIENCE: Duration = Duration::from_secs(1800);
/// What a build needs on the way, inside its staging directory.
pub(crate) const WORK_DIR: &str = "work";

/// What a template is to be made of.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// Its name.
    pub name: Name,
    /// Where the kernel comes from.
    pub kernel: KernelSource,
    /// Where the root filesystem comes from.
    pub rootfs: RootfsSource,
    /// The guest agent: a static 64-bit program that becomes `/init`. Run with `--version` it must
    /// print a line that ends with its version.
    pub agent: PathBuf,
    /// The size of VMs whose creator does not say.
    pub defaults: Resources,
    /// What else its VMs take of their host, where their creator does not say.
    pub tuning: Tuning,
    /// Kernel arguments beyond those the driver chooses.
    pub kernel_args: Vec<String>,
    /// What its VMs' CPUs are made to look like; like the host's where absent.
    pub cpu_template: Option<CpuTemplate>,
    /// How its VMs' devices are attached; as fits best where absent.
    pub transport: Option<VirtioTransport>,
    /// The snapshots that its VMs are made ready for.
    pub snapshots: Option<SnapshotKind>,
    /// Whether an existing template of that name is replaced.
    pub replace: bool,
}

/// Where a kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSource {
    /// The package that the host's distribution has for virtual machines. It is not installed.
    DistributionPackage {
        /// Where downloaded packages are kept, so that a second build downloads nothing.
        cache: PathBuf,
    },
    /// Files at hand.
    Files {
        /// A bzImage or an ELF image.
        kernel: PathBuf,
        /// Its modules, as in `/lib/modules/<release>`; `None` if it needs none.
        modules: Option<PathBuf>,
    },
    /// Another template's, with its initramfs.
    Template(Box<InstalledTemplate>),
}

/// Where a root filesystem comes from.
#[derive(Debug, Clone)]
pub enum RootfsSource {
    /// A minimal system of the host's own distribution, from the host's own mirror.
    Packages {
        /// Packages beyond the minimum.
        include: Vec<String>,
    },
    /// A directory. Built by root, files keep their owners; by anybody else, root owns them all.
    Directory(PathBuf),
    /// An unmounted ext4 image, which is copied.
    Ext4Image(PathBuf),
    /// An image as containers have them. Built by anybody but root, files keep their owners too.
    Image {
        /// Where it comes from.
        origin: ImageOrigin,
        /// How registries are reached.
        registry: Box<RegistryAccess>,
    },
    /// Another template's, with what it says about commands.
    Template(Box<InstalledTemplate>),
}

/// Makes a template and puts it into the store, under the default tag of its name. Builds of one name
/// wait for each other.
///
/// Dropping the future ends every tool it runs and removes what was made so far.
///
/// # Errors
/// [`ImageError::AlreadyExists`] if the name is taken and the request does not replace it; else
/// whatever kept the template from being made, in which case the store is as it was.
pub async fn build(
    store: &TemplateStore,
    request: BuildRequest,
    progress: &dyn Progress,
) -> Result<InstalledTemplate> {
    let place = TemplateRef::from(&request.name);
    build_as(store, request, &place, progress).await
}

/// The same under a tag of one's own; the name in the request gives way to that of the reference.
///
/// # Errors
/// As [`build()`]; [`ImageError::NotATag`] where the reference names a digest, which nobody chooses.
pub async fn build_as(
    store: &TemplateStore,
    mut request: BuildRequest,
    place: &TemplateRef,
    progress: &dyn Progress,
) -> Result<InstalledTemplate> {
    request.name = place.name.clone();
    Draft::make(store, &request, place, progress).await?.install(store).await
}

pub(crate) fn refuse_if_taken(
    store: &TemplateStore,
    request: &BuildRequest,
    place: &TemplateRef,
) -> Result<()> {
    if !request.replace && store.has(place)? {
        return Err(ImageError::AlreadyExists { name: request.name.clone() });
    }
    Ok(())
}

pub(crate) async fn make(
    dir: &Path,
    request: &BuildRequest,
    agent: Agent,
    progress: &dyn Progress,
) -> Result<Parts> {
    let work = dir.join(WORK_DIR);
    fs::create_dir(&work).on("make directory", &work)?;
    let (kernel, initramfs) = match &request.kernel {
        KernelSource::Template(base) => {
            progress.step(&format!("taking over the kernel of template {}", base.manifest.name));
            inherit::kernel_and_initramfs(base, dir, request, agent).await?
        }
        _ => make_kernel(dir, &work, request, agent, progress).await?,
    };
    let Filesystem { rootfs, image, key } =
        make_rootfs(&request.rootfs, &work, dir, progress).await?;
    let base = match &request.rootfs {
        RootfsSource::Template(base) => Some(&base.manifest),
        _ => None,
    };
    let manifest = Template {
        format: MANIFEST_FORMAT,
        name: request.name.clone(),
        // The store computes it over all of the manifest.
        digest: String::new(),
        kernel,
        initramfs,
        rootfs,
        defaults: request.defaults,
        tuning: request.tuning,
        snapshots: request.snapshots,
        image,
        start: base.and_then(|it| it.start.clone()),
        ready: base.and_then(|it| it.ready.clone()),
        init: base.and_then(|it| it.init.clone()),
        created_at: Timestamp::from(SystemTime::now()),
    };
    Ok(Parts { manifest, key })
}

async fn make_kernel(
    dir: &Path,
    work: &Path,
    request: &BuildRequest,
    agent: Agent,
    progress: &dyn Progress,
) -> Result<(Kernel, Initramfs)> {
    let files = kernel_files(&request.kernel, work, progress).await?;
    progress.step("unpacking the kernel");
    let (kernel, warning) = take_kernel(files.image.clone(), dir, request).await?;
    warning.iter().for_each(|finding| progress.warn(finding));
    let initramfs = make_initramfs(dir, agent, &kernel, files.modules, progress).await?;
    Ok((kernel, initramfs))
}

async fn kernel_files(
    source: &KernelSource,
    work: &Path,
    progress: &dyn Progress,
) -> Result<KernelFiles> {
    match source {
        KernelSource::DistributionPackage { cache } => {
            kernel::package::fetch(&Distribution::of_host()?, cache, work, progress).await
        }
        KernelSource::Files { kernel, modules } => {
            Ok(KernelFiles { image: kernel.clone(), modules: modules.clone() })
        }
        // Its modules are in its initramfs already.
        KernelSource::Template(base) => Ok(KernelFiles { image: base.kernel(), modules: None }),
    }
}

async fn take_kernel(
    image: PathBuf,
    dir: &Path,
    request: &BuildRequest,
) -> Result<(Kernel, Option<Finding>)> {
    let extra_args = request.kernel_args.clone();
    let (cpu_template, transport) = (request.cpu_template.clone(), request.transport);
    let dir = dir.to_owned();
    blocking(move || {
        let Examined { facts, elf } = kernel::examine(&image)?;
        let place = dir.join(KERNEL_FILE);
        fs::copy(&image, &place).on("copy", &image)?;
        // Distributions ship it for root alone; whoever runs the VMM must read it.
        fs::set_permissions(&place, Permissions::from_mode(0o644))
            .on("set permissions of", &place)?;
        let image = digest::template_file(&dir, KERNEL_FILE)?;
        let (elf, warning) = match elf {
            Unpacked::Already => (None, None),
            Unpacked::Inside(elf) => {
                let place = dir.join(KERNEL_ELF_FILE);
                fs::write(&place, elf).on("write", &place)?;
                (Some(digest::template_file(&dir, KERNEL_ELF_FILE)?), None)
            }
            Unpacked::Unreadable(why) => (None, Some(packed_only(&why))),
        };
        let kernel = Kernel {
            image,
            release: facts.release,
            format: facts.format,
            extra_args,
            cpu_template,
            transport,
            elf,
            needs_bytes: Some(facts.needs_bytes),
            config: facts.config,
        };
        Ok((kernel, warning))
    })
    .await
}

fn packed_only(why: &str) -> Finding {
    Finding::warn(
        "template.kernel.elf",
        format!("the kernel cannot be unpacked: {why}"),
        "Firecracker up to 1.16 loads uncompressed ELF kernels alone",
        "give an uncompressed vmlinux, or use Firecracker 1.17",
    )
}

async fn make_initramfs(
    dir: &Path,
    agent: Agent,
    kernel: &Kernel,
    modules: Option<PathBuf>,
    progress: &dyn Progress,
) -> Result<Initramfs> {
    progress.step(&format!("making the initramfs for kernel {}", kernel.release));
    // Given none, nobody misses them in a kernel that is known to have all built in.
    let misses_none =
        modules.is_none() && kernel.config.as_ref().is_some_and(needs::needs_no_modules);
    let (dir, release) = (dir.to_owned(), kernel.release.clone());
    let (initramfs, warnings) = blocking(move || {
        let archive = initramfs::make(&agent, &release, modules.as_deref())?;
        let place = dir.join(INITRAMFS_FILE);
        fs::write(&place, archive.bytes).on("write", &place)?;
        let image = digest::template_file(&dir, INITRAMFS_FILE)?;
        let Agent { version: agent_version, sha256: agent_sha256, .. } = agent;
        let modules = archive.modules;
        Ok((Initramfs { image, modules, agent_version, agent_sha256 }, archive.warnings))
    })
    .await?;
    if !misses_none {
        warnings.iter().for_each(|finding| progress.warn(finding));
    }
    Ok(initramfs)
}

/// A root filesystem, what its image says about commands, and what stands for its content.
struct Filesystem {
    rootfs: RootFilesystem,
    image: Option<ImageDefaults>,
    key: String,
}

async fn make_rootfs(
    source: &RootfsSource,
    work: &Path,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<Filesystem> {
    let image = dir.join(ROOTFS_FILE);
    let made = match source {
        RootfsSource::Packages { include } => {
            let host = Distribution::of_host()?;
            rootfs::from_packages(&host, include, work, &image, progress).await?
        }
        RootfsSource::Directory(source) => rootfs::from_directory(source, &image, progress).await?,
        RootfsSource::Ext4Image(source) => rootfs::from_image(source, &image, progress).await?,
        RootfsSource::Image { origin: ImageOrigin::Directory(source), .. } => {
            rootfs::from_directory(source, &image, progress).await?
        }
        RootfsSource::Image { origin, registry } => {
            let places = oci::Places { work, registry };
            rootfs::from_layers(origin, places, &image, progress).await?
        }
        RootfsSource::Template(base) => rootfs::from_template(base, &image, progress).await?,
    };
    progress.step("computing digests");
    let dir = dir.to_owned();
    let image = blocking(move || digest::template_file(&dir, ROOTFS_FILE)).await?;
    let key = made.key.unwrap_or_else(|| image.sha256.clone());
    let rootfs =
        RootFilesystem { image, uuid: made.uuid, fstype: "ext4".into(), origin: made.origin };
    Ok(Filesystem { rootfs, image: made.defaults, key })
}
