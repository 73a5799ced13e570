//! What a guest boots from: its template's kernel, and an initramfs with what only this guest is told.

use crate::WorkerError;
use aetherium_agent_proto::{
    Token,
    config::{
        Disk as GuestDisk, DiskSelector, EndsBy, FirstProcess, GUEST_CONFIG_PATH, GuestConfig,
        GuestNet, Mode, Transports,
    },
};
use aetherium_image::{Check, Draft, InstalledTemplate, blank::OVERLAY_LABEL, cpio};
use aetherium_model::{Code, Fault, finding::Verdict, resources::DriverKind, template::Template};
use aetherium_vmm::{GuestKernel, ProbeGuest, VsockChoice};
use std::path::{Path, PathBuf};

/// What of a template a guest's boot needs, whether the template is in its place or still on its way.
pub(crate) struct Bootable<'a> {
    manifest: &'a Template,
    kernel: PathBuf,
    kernel_elf: Option<PathBuf>,
    pub(crate) initramfs: PathBuf,
}

impl<'a> From<&'a InstalledTemplate> for Bootable<'a> {
    fn from(template: &'a InstalledTemplate) -> Self {
        Self {
            manifest: &template.manifest,
            kernel: template.kernel(),
            kernel_elf: template.kernel_elf(),
            initramfs: template.initramfs(),
        }
    }
}

impl<'a> From<&'a Draft> for Bootable<'a> {
    fn from(draft: &'a Draft) -> Self {
        Self {
            manifest: draft.manifest(),
            kernel: draft.kernel(),
            kernel_elf: draft.kernel_elf(),
            initramfs: draft.initramfs(),
        }
    }
}

/// The kernel of a template, as drivers take it.
pub(crate) fn guest_kernel(template: &Bootable<'_>) -> GuestKernel {
    let kernel = &template.manifest.kernel;
    GuestKernel {
        image: template.kernel.clone(),
        elf: template.kernel_elf.clone(),
        facts: kernel.facts(),
        extra_args: kernel.extra_args.clone(),
        modules: template.manifest.initramfs.modules.clone(),
        cpu_template: kernel.cpu_template.clone(),
    }
}

/// Refuses a template whose files are not there as they were built, before anything is made for it.
pub(super) fn intact(template: &InstalledTemplate) -> Result<(), Fault> {
    let broken = template.verify(Check::Quick).into_iter().find(|it| it.verdict == Verdict::Fail);
    match broken {
        None => Ok(()),
        Some(finding) => {
            Err(Fault::new(Code::TemplateBroken, finding.found).remedy(finding.remedy))
        }
    }
}

/// What only one guest is told.
#[derive(Debug, Clone)]
pub struct GuestIdentity<'a> {
    /// What its agent demands over TCP.
    pub token: &'a Token,
    /// Its host name.
    pub hostname: &'a str,
    /// Its network; none where absent, and then its agent is reached over vsock alone.
    pub net: Option<GuestNet>,
    /// What ends its machine.
    pub ends_by: EndsBy,
}

/// What ends the machine of a driver's guests: Firecracker has no power switch, and ends when its
/// guest restarts.
pub const fn ends_by(driver: DriverKind) -> EndsBy {
    match driver {
        DriverKind::Firecracker => EndsBy::Restart,
        DriverKind::Qemu | DriverKind::Process | DriverKind::Simulated => EndsBy::PowerOff,
    }
}

/// Writes the initramfs of one guest of `template`: the template's own, and what only this guest may
/// know. Public for whoever boots a template without a worker, such as a benchmark's floor.
///
/// # Errors
/// The file cannot be written.
pub async fn write_guest_initrd(
    template: &InstalledTemplate,
    path: &Path,
    guest: GuestIdentity<'_>,
    vsock: VsockChoice,
) -> Result<(), Fault> {
    let config = GuestConfig {
        token: Some(guest.token.clone()),
        hostname: Some(guest.hostname.to_owned()),
        ends_by: guest.ends_by,
        root: Some(GuestDisk::ext4(DiskSelector::Uuid(template.manifest.rootfs.uuid.clone()))),
        overlay: Some(GuestDisk::ext4(DiskSelector::Label(OVERLAY_LABEL.to_owned()))),
        transports: Transports { vsock: vsock == VsockChoice::Auto, tcp: guest.net.is_some() },
        net: guest.net,
        first_process: match &template.manifest.init {
            Some(init) => FirstProcess::Image { program: init.clone() },
            None => FirstProcess::Agent,
        },
        ..GuestConfig::default()
    };
    write_initrd(template.initramfs(), path.to_owned(), &config).await
}

/// The guest of a probe: this template's kernel, with an init that says it runs and powers off.
///
/// # Errors
/// The file `initrd` cannot be written.
pub async fn probe_guest(
    template: &InstalledTemplate,
    initrd: PathBuf,
) -> Result<ProbeGuest, Fault> {
    probe_of(&Bootable::from(template), initrd).await
}

/// The same for a template that may still be on its way.
pub(crate) async fn probe_of(
    template: &Bootable<'_>,
    initrd: PathBuf,
) -> Result<ProbeGuest, Fault> {
    write_probe_initrd(template.initramfs.clone(), initrd.clone()).await?;
    Ok(ProbeGuest {
        kernel: guest_kernel(template),
        kernel_sha256: template.manifest.kernel.image.sha256.clone(),
        initrd,
    })
}

/// Writes the initramfs of a probe: one with the agent, and the order to say that it runs and to end.
///
/// # Errors
/// The file `initrd` cannot be written.
pub async fn write_probe_initrd(base: PathBuf, initrd: PathBuf) -> Result<(), Fault> {
    // Every driver's machine ends at a restart; not every one's at a power-off.
    let ends_by = EndsBy::Restart;
    let config = GuestConfig { mode: Mode::Probe, ends_by, ..GuestConfig::default() };
    write_initrd(base, initrd, &config).await
}

/// Writes the template's initramfs followed by a second archive with the guest's configuration: the
/// kernel unpacks one after the other (Documentation/driver-api/early-userspace/buffer-format.rst).
/// The configuration is not on the kernel's command line because every user of the guest can read that.
pub(crate) async fn write_initrd(
    base: PathBuf,
    path: PathBuf,
    config: &GuestConfig,
) -> Result<(), Fault> {
    let json = serde_json::to_vec(config).map_err(WorkerError::Encode)?;
    let segment = cpio::segment(&[cpio::Entry::file(GUEST_CONFIG_PATH, 0o600, json)]);
    let target = path.clone();
    let written = tokio::task::spawn_blocking(move || {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut source = std::fs::File::open(base)?;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        std::io::copy(&mut source, &mut file)?;
        file.write_all(&segment)
    })
    .await
    .map_err(Fault::internal)?;
    written.map_err(|source| WorkerError::io(&target, source).into())
}
