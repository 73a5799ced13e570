//! Bringing a VM up: files, VMM, agent. Every step leaves its traces where `Host::release_vm` finds
//! them, so that a start that fails, or is given up half way, leaves nothing behind.

use super::{
    base, go_on::can_be_used, network, ready, record::Record, restore, snapshot::Snapshot,
};
use crate::{
    WorkerError,
    host::Host,
    journal::{DiffBase, Journal, Readiness},
    metrics::StartedFrom,
};
use aetherium_agent_client::{AgentClient, AgentError, Deadlines, Endpoint};
use aetherium_agent_proto::{
    Token,
    config::{
        Disk as GuestDisk, DiskSelector, EndsBy, FirstProcess, GUEST_CONFIG_PATH, GuestConfig,
        GuestNet, Mode, Transports,
    },
};
use aetherium_image::{Check, Draft, InstalledTemplate, blank::OVERLAY_LABEL, cpio};
use aetherium_model::{
    Code, Fault,
    finding::Verdict,
    resources::{DriverKind, VirtioTransport},
    template::{ImageDefaults, Template},
    vm::{AgentTransport, SnapshotKind, StartTimings, Vm, VmEvent},
};
use aetherium_vmm::{
    Accelerator, AgentAddress, Boot, Disk, Footprint, GuestKernel, LaunchSpec, Machine, ProbeGuest,
    VmmExit, VsockChoice,
    diagnose::{self, Phase},
    firecracker::plan::TransportChoice,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// A VM's initramfs: the template's, followed by what only this VM's guest may know.
pub(super) const INITRD: &str = "initrd";
/// The token's file, for an agent that has no initramfs.
const TOKEN: &str = "token";
/// The disk of a VM without a workspace; it ends with the VM.
pub(super) const OVERLAY: &str = "overlay.ext4";

/// A VM that runs: its processes and its agent.
pub(crate) struct Machinery {
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) agent: AgentClient,
    /// What the template's image says about commands.
    pub(crate) image: ImageDefaults,
}

/// A guest whose agent has answered.
pub(crate) struct Started {
    pub(crate) agent: AgentClient,
    /// From the VMM's start to the guest's init, or to the restored agent's answer.
    pub(crate) boot: Duration,
    /// From there until the VM was ready.
    pub(crate) agent_took: Duration,
}

/// What a VM is started from, with all files made.
enum Origin {
    Kernel(Box<LaunchSpec>),
    Snapshot(Box<restore::Prepared>),
}

/// Starts a VM and waits for its agent's first answer.
pub(super) async fn start(host: &Arc<Host>, record: &mut Record) -> Result<Machinery, Fault> {
    let began = Instant::now();
    let vm = record.vm().clone();
    let snapshot = vm.spec.snapshot.as_ref().map(|name| Snapshot::open(host, name)).transpose()?;
    let token = match &snapshot {
        Some(snapshot) => snapshot.record.token.clone(),
        None => Token::from_random(rand::random()),
    };
    let template = base::hold(host, &vm)?;
    if let Some(template) = &template {
        let digest = template.digest().map_err(WorkerError::from)?;
        record.amend(|vm| vm.spec.template_digest = Some(digest));
    }
    let said = template.as_ref().map(|it| &it.manifest);
    let image = said.and_then(|it| it.image.clone()).unwrap_or_default();
    let snapshots = vm.spec.snapshots.or(said.and_then(|it| it.snapshots));
    let diff_base = match (snapshots, &snapshot) {
        (Some(SnapshotKind::Diff), None) => DiffBase::NoneYet,
        (Some(SnapshotKind::Diff), Some(snapshot)) => DiffBase::Since(snapshot.as_base()),
        (None | Some(SnapshotKind::Full), _) => DiffBase::Untracked,
    };
    crate::layout::private_dir(&host.layout.vm(vm.id))?;
    let slot = network::take_slot(host, &vm).await?;
    let mut journal = Journal {
        vm_id: vm.id,
        workspace_id: vm.workspace_id,
        token,
        image,
        slot,
        footprint: None,
        readiness: Readiness::Awaited,
        diff_base,
    };
    journal.write(&host.layout)?;
    let origin = match snapshot {
        None => Origin::Kernel(Box::new(prepare(host, &vm, &journal, template.clone()).await?)),
        Some(it) => Origin::Snapshot(Box::new(restore::prepare(host, &vm, &journal, it).await?)),
    };
    let prepared = began.elapsed();
    let from = match &origin {
        Origin::Kernel(_) => StartedFrom::Kernel,
        Origin::Snapshot(_) => StartedFrom::Snapshot,
    };
    host.tenure.check()?;
    let machine = match &origin {
        Origin::Kernel(spec) => host.driver()?.launch(spec).await?,
        Origin::Snapshot(restored) => restored.load(host).await?,
    };
    journal.footprint = Some(machine.footprint().clone());
    journal.write(&host.layout)?;

    let footprint = machine.footprint();
    record.amend(|vm| {
        vm.driver = Some(footprint.driver);
        vm.accelerator = Some(footprint.accelerator.to_string());
        vm.virtio_transport = footprint.transport;
        vm.address = journal.slot.as_ref().map(|slot| slot.address);
    });
    record.apply(VmEvent::Launched, None).await;

    let Started { agent, boot, agent_took } = match origin {
        Origin::Kernel(_) => {
            let deadline = host.settings.boot_deadline;
            let mut started = await_agent(deadline, &machine, &journal.token).await?;
            let answered = Instant::now();
            if let Some(template) = &template {
                ready::bring_up(&started.agent, &template.manifest).await?;
            }
            started.agent_took += answered.elapsed();
            started
        }
        Origin::Snapshot(_) => Box::pin(restore::awaken(host, &vm, &machine, &journal)).await?,
    };
    let took = boot + agent_took;
    host.metrics.started(machine.footprint().driver, from, took, began.elapsed());
    let transport = agent.transport().map(transport);
    record.amend(|vm| {
        vm.agent_transport = transport;
        vm.timings = Some(StartTimings {
            prepare_ms: millis(prepared),
            boot_ms: millis(boot),
            agent_ms: millis(agent_took),
        });
    });
    can_be_used(host, &mut journal).await?;
    Ok(Machinery { machine, agent, image: journal.image })
}

/// Waits for the first answer of a booting guest's agent.
pub(crate) async fn await_agent(
    deadline: Duration,
    machine: &Arc<dyn Machine>,
    token: &Token,
) -> Result<Started, Fault> {
    let launched = Instant::now();
    let agent = agent_client(machine.footprint(), token);
    let hello = tokio::select! {
        ready = agent.wait_ready(deadline) => match ready {
            Ok(hello) => hello,
            Err(error) => return Err(silent(machine.as_ref(), &error, launched.elapsed()).await),
        },
        lost = diagnose::watch_boot(machine.as_ref()) => return Err(lost),
    };
    // The guest's own clock tells how much of the wait was its init; the rest was its boot.
    let since_launch = launched.elapsed();
    let in_init = Duration::from_millis(hello.uptime_ms.saturating_sub(hello.started_uptime_ms))
        .min(since_launch);
    Ok(Started { agent, boot: since_launch - in_init, agent_took: in_init })
}

/// A client for the agent of a VM with this footprint.
pub(crate) fn agent_client(footprint: &Footprint, token: &Token) -> AgentClient {
    let endpoints = footprint
        .agent
        .iter()
        .map(|address| match address {
            AgentAddress::Unix { path } => Endpoint::Unix { path: path.clone() },
            AgentAddress::Vsock { uds, port } => Endpoint::Vsock { uds: uds.clone(), port: *port },
            AgentAddress::Tcp { addr } => Endpoint::Tcp { addr: *addr, token: token.clone() },
        })
        .collect();
    AgentClient::new(endpoints, deadlines(footprint.accelerator))
}

/// How long a guest may take for what. A busy host can keep an emulated guest from running for many
/// seconds; that its VMM has died shows at once, whatever the patience.
pub(crate) fn deadlines(accelerator: Accelerator) -> Deadlines {
    let seconds = Duration::from_secs;
    match accelerator {
        Accelerator::Tcg => {
            Deadlines { dial: seconds(15), call: seconds(60), silence: seconds(20) }
        }
        Accelerator::Kvm | Accelerator::None => Deadlines::default(),
    }
}

/// How long the agent of a guest that was only stopped may take to answer.
pub(super) const fn answer_deadline(accelerator: Accelerator) -> Duration {
    Duration::from_secs(match accelerator {
        Accelerator::Tcg => 60,
        Accelerator::Kvm | Accelerator::None => 10,
    })
}

pub(crate) const fn transport(transport: aetherium_agent_proto::AgentTransport) -> AgentTransport {
    match transport {
        aetherium_agent_proto::AgentTransport::Vsock => AgentTransport::Vsock,
        aetherium_agent_proto::AgentTransport::Tcp => AgentTransport::Tcp,
        aetherium_agent_proto::AgentTransport::Unix => AgentTransport::Unix,
    }
}

/// Makes the VM's directory and everything in it that the VMM will open.
async fn prepare(
    host: &Arc<Host>,
    vm: &Vm,
    journal: &Journal,
    template: Option<InstalledTemplate>,
) -> Result<LaunchSpec, Fault> {
    let run_dir = host.layout.vm(vm.id);
    let Guest { boot, transport, snapshots } = match template {
        None if host.driver()?.kind() == DriverKind::Simulated => Guest::NONE,
        None => prepare_process(host, &run_dir, &journal.token)?,
        Some(template) => prepare_guest(host, vm, &run_dir, journal, &template).await?,
    };
    let transport = transport.map_or(TransportChoice::Auto, TransportChoice::Only);
    Ok(LaunchSpec {
        vm_id: vm.id,
        run_dir,
        resources: vm.spec.resources,
        tuning: vm.spec.tuning,
        boot,
        network: vm.spec.network,
        vsock: host.settings.vsock,
        transport,
        snapshots,
        slot: journal.slot.clone(),
    })
}

/// What runs in a VM, and what its template says of it where its creator does not.
struct Guest {
    boot: Boot,
    transport: Option<VirtioTransport>,
    snapshots: Option<SnapshotKind>,
}

impl Guest {
    /// What a modelled VM runs.
    const NONE: Self = Self { boot: Boot::Nothing, transport: None, snapshots: None };
}

fn prepare_process(host: &Host, run_dir: &Path, token: &Token) -> Result<Guest, Fault> {
    let token_file = run_dir.join(TOKEN);
    crate::layout::replace_file(&token_file, token.expose().as_bytes())?;
    let binary = host.settings.agent_binary.clone().ok_or_else(|| {
        Fault::new(Code::DriverUnavailable, "the process driver needs the agent's binary")
            .remedy("put fc-agent beside the aetherium binary, or name it with --agent")
    })?;
    let boot = Boot::Agent { binary, token_file };
    Ok(Guest { boot, transport: None, snapshots: None })
}

async fn prepare_guest(
    host: &Arc<Host>,
    vm: &Vm,
    run_dir: &Path,
    journal: &Journal,
    template: &InstalledTemplate,
) -> Result<Guest, Fault> {
    intact(template)?;
    host.learn_accelerator(template).await?;

    let overlay = match vm.workspace_id {
        Some(workspace) => host.layout.workspace_disk(workspace),
        None => {
            let path = run_dir.join(OVERLAY);
            host.blanks
                .clone_to(&path, vm.spec.resources.disk_mib)
                .await
                .map_err(WorkerError::from)?;
            path
        }
    };
    let initrd = run_dir.join(INITRD);
    let driver = host.driver()?.kind();
    let guest = GuestIdentity {
        token: &journal.token,
        hostname: &hostname(vm),
        net: network::seen_by_guest(driver, journal.slot.as_ref()),
        ends_by: ends_by(driver),
    };
    write_guest_initrd(template, &initrd, guest, host.settings.vsock).await?;
    Ok(Guest {
        boot: kernel_boot(template, initrd, overlay),
        transport: vm.spec.transport.or(template.manifest.kernel.transport),
        snapshots: vm.spec.snapshots.or(template.manifest.snapshots),
    })
}

/// A boot of a template's kernel with these disks.
pub(super) fn kernel_boot(template: &InstalledTemplate, initrd: PathBuf, overlay: PathBuf) -> Boot {
    let disk = |path: PathBuf, read_only, serial: &str| Disk {
        path,
        read_only,
        serial: serial.to_owned(),
    };
    Boot::Kernel {
        kernel: guest_kernel(&Bootable::from(template)),
        initrd,
        disks: vec![
            disk(template.rootfs(), true, "aetherium-root"),
            disk(overlay, false, "aetherium-rw"),
        ],
    }
}

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

/// A host name for the guest: letters, digits and hyphens, as RFC 1123 has it.
pub(super) fn hostname(vm: &Vm) -> String {
    vm.id.to_string().replace('_', "-")
}

/// The agent did not answer in time: what the console and the VMM's log say about it.
pub(super) async fn silent(machine: &dyn Machine, error: &AgentError, waited: Duration) -> Fault {
    tracing::debug!(%error, "the agent never answered");
    let evidence = diagnose::gather(machine.footprint(), Phase::Booting, None, Some(waited)).await;
    diagnose::explain(&evidence)
}

/// Why a running VM ended though nobody asked it to.
pub(super) async fn explain_end(machinery: &Machinery, exit: VmmExit) -> Fault {
    let footprint = machinery.machine.footprint();
    diagnose::explain(&diagnose::gather(footprint, Phase::Running, Some(exit), None).await)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
