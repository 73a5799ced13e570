//! Bringing a VM up: files, VMM, agent. Every step leaves its traces where `Host::release_vm` finds
//! them, so that a start that fails, or is given up half way, leaves nothing behind.

use super::{
    base,
    go_on::can_be_used,
    guest::{Bootable, GuestIdentity, ends_by, guest_kernel, intact, write_guest_initrd},
    network, ready,
    record::Record,
    restore,
    snapshot::Snapshot,
};
use crate::{
    WorkerError, hibernation,
    host::Host,
    journal::{DiffBase, Journal, Readiness},
    metrics::StartedFrom,
};
use aetherium_agent_client::{AgentClient, AgentError, Deadlines, Endpoint};
use aetherium_agent_proto::Token;
use aetherium_image::InstalledTemplate;
use aetherium_model::{
    Code, Fault, WorkspaceId,
    resources::{DriverKind, VirtioTransport},
    template::ImageDefaults,
    vm::{AgentTransport, SnapshotKind, StartTimings, Vm, VmEvent},
};
use aetherium_vmm::{
    Accelerator, AgentAddress, Boot, Disk, Footprint, LaunchSpec, Machine, VmmExit,
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

/// How a VM is to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning {
    /// As its specification says.
    Specified,
    /// With the memory of its workspace's hibernated VM.
    Hibernated(WorkspaceId),
}

/// Starts a VM and waits for its agent's first answer.
pub(super) async fn start(
    host: &Arc<Host>,
    record: &mut Record,
    beginning: Beginning,
) -> Result<Machinery, Fault> {
    let began = Instant::now();
    let vm = record.vm().clone();
    let snapshot = match (beginning, &vm.spec.snapshot) {
        (Beginning::Hibernated(workspace), _) => Some(Snapshot::of_hibernated(host, workspace)?),
        (Beginning::Specified, Some(name)) => Some(Snapshot::open(host, name)?),
        (Beginning::Specified, None) => None,
    };
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
    let named = vm.spec.snapshot.as_ref().zip(snapshot.as_ref());
    let diff_base = match (snapshots, named) {
        (Some(SnapshotKind::Diff), None) => DiffBase::NoneYet,
        (Some(SnapshotKind::Diff), Some((name, it))) => DiffBase::Since(it.as_base(name)),
        (None | Some(SnapshotKind::Full), _) => DiffBase::Untracked,
    };
    let from = match &snapshot {
        None => StartedFrom::Kernel,
        Some(_) => StartedFrom::Snapshot,
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
        started_from: from,
    };
    journal.write(&host.layout)?;
    let origin = match snapshot {
        None => Origin::Kernel(Box::new(prepare(host, &vm, &journal, template.clone()).await?)),
        Some(it) => Origin::Snapshot(Box::new(restore::prepare(host, &vm, &journal, it).await?)),
    };
    let prepared = began.elapsed();
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
        Origin::Snapshot(_) => {
            let spent = match beginning {
                // From here on the disk goes on.
                Beginning::Hibernated(workspace) => {
                    Some(hibernation::spend(host, workspace).await?)
                }
                Beginning::Specified => None,
            };
            let awoken = Box::pin(restore::awaken(host, &vm, &machine, &journal)).await;
            if let Some(spent) = spent {
                spent.remove().await;
            }
            awoken?
        }
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
    let volatile = match host.driver()?.kind().starts_from_template() {
        true => host.volatile.make(vm.id)?,
        false => None,
    };
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
        volatile,
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
