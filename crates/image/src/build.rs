//! Makes a template out of a kernel, an agent and a root filesystem.
//!
//! All work is done in a staging directory beside the template's place; the manifest is written
//! last, everything is forced to the disk, and one rename puts the whole in place. A build that is
//! cancelled or killed at any point leaves the store as it was, but for a staging directory that
//! the next one removes.

use crate::{
    agent::Agent,
    digest,
    distribution::Distribution,
    error::{ImageError, OnPath, Result, blocking},
    initramfs, kernel,
    kernel::{Examined, KernelFiles, Unpacked},
    oci::{self, ImageOrigin, RegistryAccess},
    progress::Progress,
    rootfs,
    staging::{self, NameLock, Staging},
    store::{
        INITRAMFS_FILE, InstalledTemplate, KERNEL_ELF_FILE, KERNEL_FILE, MANIFEST_FILE,
        ROOTFS_FILE, TemplateStore,
    },
};
use aetherium_model::{
    Name, Timestamp,
    finding::Finding,
    resources::{Resources, VirtioTransport},
    template::{
        CpuTemplate, ImageDefaults, Initramfs, Kernel, MANIFEST_FORMAT, RootFilesystem, Template,
    },
    tuning::Tuning,
};
use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// How long another build of the same template is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(1800);
/// What a build needs on the way, inside its staging directory.
const WORK_DIR: &str = "work";

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
}

/// Makes a template and puts it into the store. Builds of one name wait for each other.
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
    refuse_if_taken(store, &request)?;
    if let RootfsSource::Packages { .. } = request.rootfs {
        rootfs::require_bootstrap_tools()?;
    }
    let agent = Agent::read(&request.agent).await?;
    let lock = NameLock::acquire(store.dir(), &request.name, LOCK_PATIENCE).await?;
    refuse_if_taken(store, &request)?;
    let staging = blocking(move || Staging::new(lock)).await?;
    let made = make(staging.path(), &request, agent, progress).await;
    blocking(move || match made {
        Ok(manifest) => install(staging, &manifest),
        Err(error) => {
            staging.discard();
            Err(error)
        }
    })
    .await?;
    store.get(&request.name)
}

fn refuse_if_taken(store: &TemplateStore, request: &BuildRequest) -> Result<()> {
    if !request.replace && store.path(&request.name).exists() {
        return Err(ImageError::AlreadyExists { name: request.name.clone() });
    }
    Ok(())
}

async fn make(
    dir: &Path,
    request: &BuildRequest,
    agent: Agent,
    progress: &dyn Progress,
) -> Result<Template> {
    let work = dir.join(WORK_DIR);
    fs::create_dir(&work).on("make directory", &work)?;
    let files = kernel_files(&request.kernel, &work, progress).await?;
    progress.step("unpacking the kernel");
    let (kernel, warning) = take_kernel(files.image.clone(), dir, request).await?;
    warning.iter().for_each(|finding| progress.warn(finding));
    let initramfs = make_initramfs(dir, agent, &kernel.release, files.modules, progress).await?;
    let (rootfs, image) = make_rootfs(&request.rootfs, &work, dir, progress).await?;
    let digests = [&kernel.image.sha256, &initramfs.image.sha256, &rootfs.image.sha256];
    let said = image.as_ref().map(serde_json::to_string).transpose();
    let said = said.map_err(std::io::Error::from).on("write", dir)?;
    let parts = digests.into_iter().chain(&kernel.extra_args).chain(&said).map(String::as_str);
    Ok(Template {
        format: MANIFEST_FORMAT,
        name: request.name.clone(),
        digest: digest::of_parts(parts),
        kernel,
        initramfs,
        rootfs,
        defaults: request.defaults,
        tuning: request.tuning,
        image,
        created_at: Timestamp::from(SystemTime::now()),
    })
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
    release: &str,
    modules: Option<PathBuf>,
    progress: &dyn Progress,
) -> Result<Initramfs> {
    progress.step(&format!("making the initramfs for kernel {release}"));
    let (dir, release) = (dir.to_owned(), release.to_owned());
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
    warnings.iter().for_each(|finding| progress.warn(finding));
    Ok(initramfs)
}

async fn make_rootfs(
    source: &RootfsSource,
    work: &Path,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<(RootFilesystem, Option<ImageDefaults>)> {
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
    };
    progress.step("computing digests");
    let dir = dir.to_owned();
    let image = blocking(move || digest::template_file(&dir, ROOTFS_FILE)).await?;
    let filesystem =
        RootFilesystem { image, uuid: made.uuid, fstype: "ext4".into(), origin: made.origin };
    Ok((filesystem, made.defaults))
}

/// Puts what was made in place, for good.
fn install(staging: Staging, manifest: &Template) -> Result<()> {
    let dir = staging.path();
    let work = dir.join(WORK_DIR);
    fs::remove_dir_all(&work).on("remove", &work)?;
    let place = dir.join(MANIFEST_FILE);
    let text =
        serde_json::to_vec_pretty(manifest).map_err(std::io::Error::from).on("write", &place)?;
    fs::write(&place, text).on("write", &place)?;
    let files = manifest.files().map(|it| it.file.as_str());
    for file in files.chain([MANIFEST_FILE]) {
        let path = dir.join(file);
        File::open(&path).and_then(|file| file.sync_all()).on("write to disk", &path)?;
    }
    fs::set_permissions(dir, Permissions::from_mode(0o755)).on("set permissions of", dir)?;
    staging::sync_dir(dir)?;
    staging.install()?;
    Ok(())
}
