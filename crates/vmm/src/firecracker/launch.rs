//! Starting a Firecracker as its plan says: files, jail, process, API calls.

use super::{
    api::Api,
    jail::{self, Jail, Users},
    machine::FirecrackerMachine,
    plan::{
        AgentTransport, ApiCall, Confinement, Console, DiskRequest, FileUse, FirecrackerVersion,
        HostFacts, InitramfsFacts, KernelFiles, NetworkRequest, Plan, PlanRequest, SharedFile,
        Start, TemplateFacts, VsockRequest, plan,
    },
    program::Info,
    snapshot::{self, Naming},
    tuning,
};
use crate::{
    Accelerator, AgentAddress, Boot, Disk, DriverConfig, Footprint, JailFootprint, LaunchSpec,
    Role, SnapshotFiles, VmmError, VsockChoice,
    diagnose::tail_lines,
    held::Held,
    needs::boot_needs_bytes,
    spawn::{Bind, Spawn, check_socket_path, find_program, open_log},
    supervise::{Supervised, remove_if_there},
};
use aetherium_model::{finding::Finding, resources::DriverKind};
use serde_json::json;
use std::{
    ffi::OsString,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::timeout;

/// How long Firecracker may take until it listens, the jailer's work included.
const LISTEN_DEADLINE: Duration = Duration::from_secs(5);
/// How long it may take to load the kernel and start its virtual CPUs.
pub(super) const START_DEADLINE: Duration = Duration::from_secs(10);
/// The context id that every guest has; 0 to 2 are reserved, see vsock(7). It is the same for all,
/// since Firecracker's sockets are files.
const GUEST_CID: u32 = 3;
/// The API socket's name in the run directory or the jail.
const API_SOCKET: &str = "api.sock";
/// The jailer's name in `PATH`.
const JAILER: &str = "jailer";
/// How long what a failed launch leaves may take to be removed.
const CLEAR_DEADLINE: Duration = Duration::from_secs(2);
/// How long a Firecracker that hung up may take to end.
const LAST_WORDS: Duration = Duration::from_secs(1);
const JAILER_REMEDY: &str = "install the jailer of the same Firecracker release beside it, or give \
                             it up with --no-jailer";

/// Where the driver runs Firecracker, before a VM is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Confine {
    /// As this process's user, who is not root or gave the jailer up.
    Plain,
    /// Under this jailer.
    Jailer(PathBuf),
}

impl Confine {
    /// Root uses the jailer unless told otherwise; nobody else can.
    pub(super) fn choose(config: &DriverConfig) -> Result<Self, VmmError> {
        if config.no_jailer || !rustix::process::geteuid().is_root() {
            return Ok(Self::Plain);
        }
        let beside = || {
            let program = find_program(config.firecracker.as_deref(), super::program::PROGRAM)?;
            find_program(Some(&program.canonicalize().ok()?.with_file_name(JAILER)), JAILER)
        };
        let found = match &config.jailer {
            Some(jailer) => find_program(Some(jailer), JAILER),
            None => beside().or_else(|| find_program(None, JAILER)),
        };
        found.map(Self::Jailer).ok_or_else(|| VmmError::ProgramMissing {
            program: config.jailer.clone().unwrap_or_else(|| JAILER.into()),
            remedy: JAILER_REMEDY,
        })
    }
}

/// What confines VMs on this host.
pub(super) fn jailer_finding(config: &DriverConfig) -> Finding {
    let check = "firecracker.jailer";
    let why =
        "a guest that breaks out of Firecracker meets an empty directory and a user of its own";
    match Confine::choose(config) {
        Ok(Confine::Jailer(path)) => match super::cgroup::Hierarchy::of_host() {
            Ok(_) => Finding::ok(check, path.display().to_string(), why),
            Err(no_limits) => {
                let found = format!("{}; no limits by cgroup: {no_limits}", path.display());
                Finding::warn(check, found, why, "boot the host with cgroup v2 alone")
            }
        },
        Ok(Confine::Plain) if config.no_jailer => {
            Finding::warn(check, "given up by --no-jailer", why, "use it for anything untrusted")
        }
        Ok(Confine::Plain) => {
            Finding::warn(check, "not used: only root can make a jail", why, "run as root")
        }
        Err(error) => Finding::fail(check, error.to_string(), why, JAILER_REMEDY),
    }
}

/// Starts a VM; one from a snapshot is paused.
pub(super) async fn launch(
    config: &DriverConfig,
    users: &Users,
    info: &Info,
    spec: &LaunchSpec,
    from: Source<'_>,
    accelerator_reason: String,
) -> Result<FirecrackerMachine, VmmError> {
    let Boot::Kernel { kernel, initrd, .. } = &spec.boot else {
        return Err(VmmError::WrongBoot { driver: DriverKind::Firecracker, boot: "a process" });
    };
    let boot_needs_bytes = boot_needs_bytes(kernel, initrd)?;
    let place = Place::make(&Confine::choose(config)?, users, info, spec)?;
    let network = spec.slot.as_ref().map(NetworkRequest::of);
    let plan = planned(info.version, spec, place.confinement(), network)?;
    let launch = Launch { info, spec, place: &place, plan: &plan, from };
    let started = launch.run().await;
    let (main, agent, sockets) = match started {
        Ok(started) => started,
        Err(error) => {
            place.clear().await;
            return Err(error);
        }
    };
    let footprint = Footprint {
        vm_id: spec.vm_id,
        driver: DriverKind::Firecracker,
        accelerator: Accelerator::Kvm,
        accelerator_reason,
        processes: vec![main.who()],
        agent,
        console: place.console(),
        vmm_log: place.log(),
        sockets,
        control: Some(place.name(API_SOCKET)),
        transport: Some(plan.transport),
        jail: place.jail_footprint(),
        volatile: spec.volatile.clone(),
        memory_mib: spec.resources.memory_mib.get(),
        boot_needs_bytes,
    };
    let processes = Supervised::new(footprint, main.kept(), Vec::new());
    Ok(FirecrackerMachine::new(processes, info.version))
}

/// Where a VM's files are, as the host names them.
pub(super) struct Place<'a> {
    spec: &'a LaunchSpec,
    info: &'a Info,
    jailed: Option<(PathBuf, Jail)>,
    /// What makes the VM's directory in the host's memory visible in the jail.
    bind: Option<Bind>,
}

impl<'a> Place<'a> {
    /// Makes the jail, if there is to be one.
    pub(super) fn make(
        confine: &Confine,
        users: &Users,
        info: &'a Info,
        spec: &'a LaunchSpec,
    ) -> Result<Self, VmmError> {
        let jailed = match confine {
            Confine::Plain => None,
            Confine::Jailer(jailer) => {
                let jail = Jail::make(spec.vm_id, &spec.run_dir, &info.path, users.take()?)?;
                Some((jailer.clone(), jail))
            }
        };
        let bind = match (&jailed, &spec.volatile) {
            (Some((_, jail)), Some(source)) => {
                Some(Bind { target: jail.make_volatile(source)?, source: source.clone() })
            }
            _ => None,
        };
        let place = Self { spec, info, jailed, bind };
        for name in [API_SOCKET, "vsock"] {
            check_socket_path(&place.name(name))?;
            remove_if_there(&place.name(name))?;
        }
        Ok(place)
    }

    /// How Firecracker will name files of snapshots.
    fn naming(&self) -> Naming<'_> {
        Naming { volatile: self.spec.volatile.as_deref(), jailed: self.jailed.is_some() }
    }

    /// As the plan takes it.
    pub(super) fn confinement(&self) -> Confinement {
        match &self.jailed {
            None => Confinement::Plain,
            Some((_, jail)) => Confinement::Jailed { root: jail.root().to_owned() },
        }
    }

    /// The short name of a file of this VM's own.
    pub(super) fn name(&self, file: &str) -> PathBuf {
        self.spec.run_dir.join(file)
    }

    pub(super) fn console(&self) -> PathBuf {
        self.name("console.log")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.name("vmm.log")
    }

    pub(super) fn jail_footprint(&self) -> Option<JailFootprint> {
        let (_, jail) = self.jailed.as_ref()?;
        Some(JailFootprint { root: jail.root().to_owned(), cgroup: jail.cgroup() })
    }

    /// Puts the files of a plan where Firecracker will look for them.
    pub(super) fn furnish(&self, plan: &Plan, from: Source<'_>) -> Result<(), VmmError> {
        if let Source::Snapshot(files) = from {
            let naming = self.naming();
            for (file, name) in [(&files.memory, snapshot::MEMORY), (&files.state, snapshot::STATE)]
            {
                if !naming.reaches(file) {
                    self.share(file, Path::new(name))?;
                }
            }
        }
        // What a kernel starts from is in a snapshot already.
        let boots = |file: &&SharedFile| {
            let name = file.vmm.as_os_str();
            matches!(from, Source::Kernel) || (name != "kernel" && name != "initramfs")
        };
        for file in plan.files.iter().filter(boots) {
            let jail = self.jailed.as_ref().map(|it| &it.1);
            match (file.usage, jail) {
                (FileUse::Read, _) => self.share(&file.host, &file.vmm)?,
                (FileUse::Write, Some(jail)) => jail.give(&file.host, &file.vmm)?,
                (FileUse::Write, None) => self.link(&file.host, &file.vmm)?,
                (FileUse::Create, None) => {}
                (FileUse::Append, jail) => {
                    let own = self.name(&file_name(&file.vmm));
                    drop(open_log(&own)?);
                    if let Some(jail) = jail {
                        jail.give(&own, &file.vmm)?;
                    }
                }
                // Only sockets are made by Firecracker itself.
                (FileUse::Create, Some(jail)) => jail.name_socket(&file.vmm).map(drop)?,
            }
        }
        if let Some((_, jail)) = &self.jailed {
            jail.name_socket(Path::new(API_SOCKET))?;
        }
        Ok(())
    }

    /// Lets Firecracker read a file of the host.
    fn share(&self, host: &Path, name: &Path) -> Result<(), VmmError> {
        match &self.jailed {
            Some((_, jail)) => jail.share(host, name),
            None => self.link(host, name),
        }
    }

    /// Makes a file of the host visible in the run directory, where Firecracker runs.
    fn link(&self, host: &Path, name: &Path) -> Result<(), VmmError> {
        link(&self.spec.run_dir, host, name)
    }

    /// Takes a file back that Firecracker has read and needs no more.
    fn withdraw(&self, name: &Path) -> Result<(), VmmError> {
        remove_if_there(&match &self.jailed {
            Some((_, jail)) => jail.root().join(name),
            None => self.spec.run_dir.join(name),
        })
    }

    /// The program to start, and its arguments.
    pub(super) fn command(&self, plan: &Plan) -> (PathBuf, Vec<OsString>) {
        let mut program_args = plan.program_args.clone();
        program_args.extend(["--api-sock".to_owned(), API_SOCKET.to_owned()]);
        match &self.jailed {
            None => {
                program_args.extend(["--id".to_owned(), jail::jail_id(self.spec.vm_id)]);
                (self.info.path.clone(), program_args.into_iter().map(OsString::from).collect())
            }
            Some((jailer, jail)) => {
                (jailer.clone(), jail.args(&self.info.path, self.spec, &program_args))
            }
        }
    }

    /// Removes what a failed launch leaves. What cannot be removed now is swept later.
    pub(super) async fn clear(&self) {
        let sockets = [self.name(API_SOCKET), self.name("vsock")];
        let removed = sockets.iter().try_for_each(|it| remove_if_there(it));
        let removed = match (removed, self.jail_footprint()) {
            (Ok(()), Some(jailed)) => crate::supervise::remove_jail(&jailed, CLEAR_DEADLINE).await,
            (removed, _) => removed,
        };
        if let Err(error) = removed {
            tracing::warn!(vm = %self.spec.vm_id, %error, "something of a failed launch is left");
        }
    }
}

/// Makes a file of the host visible under a name in `dir`.
fn link(dir: &Path, host: &Path, name: &Path) -> Result<(), VmmError> {
    let place = dir.join(name);
    remove_if_there(&place)?;
    symlink(host, &place).map_err(VmmError::io("make a link at", &place))
}

/// Puts the files of a plan into the directory of a Firecracker without a jail and without disks.
pub(super) fn furnish_plainly(dir: &Path, plan: &Plan) -> Result<(), VmmError> {
    for file in &plan.files {
        match file.usage {
            FileUse::Read | FileUse::Write => link(dir, &file.host, &file.vmm)?,
            FileUse::Append => open_log(&dir.join(&file.vmm)).map(drop)?,
            FileUse::Create => {}
        }
    }
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// One launch under way.
struct Launch<'a> {
    info: &'a Info,
    spec: &'a LaunchSpec,
    place: &'a Place<'a>,
    plan: &'a Plan,
    from: Source<'a>,
}

/// What a guest starts from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    /// Its kernel.
    Kernel,
    /// This snapshot; it is paused then.
    Snapshot(&'a SnapshotFiles),
}

impl Launch<'_> {
    /// Starts Firecracker, tells it everything and starts the guest. On an error the process ends.
    async fn run(&self) -> Result<(Held, Vec<AgentAddress>, Vec<PathBuf>), VmmError> {
        self.place.furnish(self.plan, self.from)?;
        let (program, args) = self.place.command(self.plan);
        let log = self.place.log();
        let spawn = Spawn {
            role: Role::Vmm,
            vm_id: self.spec.vm_id,
            run_dir: &self.spec.run_dir,
            program: &program,
            args,
            log: &log,
            stdout: Some(&self.place.console()),
            inherit: None,
            bind: self.place.bind.as_ref(),
        };
        let main = spawn.start()?;
        let api = Api::new(self.place.name(API_SOCKET));
        listening(&main, &api, &self.info.path, &log).await?;
        let told = match self.from {
            Source::Kernel => tell(&api, &self.plan.calls).await,
            Source::Snapshot(files) => {
                let naming = self.place.naming();
                snapshot::load(&api, self.info.version, self.spec, files, naming).await
            }
        };
        if let Err(error) = told {
            return Err(last_words(&main, &self.info.path, &log, error).await);
        }
        // It is in the guest's memory now, and only that guest may know what is in it.
        self.place.withdraw(Path::new("initramfs"))?;
        let mut sockets = vec![self.place.name(API_SOCKET)];
        let mut agent = Vec::new();
        for way in &self.plan.agent {
            match way {
                AgentTransport::Vsock { port, uds } => {
                    let uds = self.place.name(&file_name(uds));
                    agent.push(AgentAddress::Vsock { uds: uds.clone(), port: *port });
                    sockets.push(uds);
                }
                AgentTransport::Tcp { address, .. } => {
                    let slot = self.spec.slot.as_ref();
                    let addr = slot.map_or(*address, |slot| slot.reach(address.port()));
                    agent.push(AgentAddress::Tcp { addr });
                }
            }
        }
        Ok((main, agent, sockets))
    }
}

/// Waits until Firecracker answers on its socket.
pub(super) async fn listening(
    main: &Held,
    api: &Api,
    program: &Path,
    log: &Path,
) -> Result<(), VmmError> {
    tokio::select! {
        () = api.listening() => Ok(()),
        exit = main.ended() => {
            let log = tail_lines(log).await;
            Err(VmmError::EndedEarly { program: program.to_owned(), exit, log })
        }
        () = tokio::time::sleep(LISTEN_DEADLINE) => {
            let (program, waited) = (program.to_owned(), LISTEN_DEADLINE);
            Err(VmmError::NotReady { program, waited, log: tail_lines(log).await })
        }
    }
}

/// Makes the calls in order, and starts the guest.
pub(super) async fn tell(api: &Api, calls: &[ApiCall]) -> Result<(), VmmError> {
    for call in calls {
        api.plan_call(call).await?;
    }
    let start = json!({ "action_type": "InstanceStart" });
    api.put("/actions", &start, START_DEADLINE).await
}

/// A Firecracker that hangs up is one that is ending; its own words explain more.
async fn last_words(main: &Held, program: &Path, log: &Path, error: VmmError) -> VmmError {
    if matches!(error, VmmError::Refused { .. } | VmmError::Unanswered { .. }) {
        return error;
    }
    match timeout(LAST_WORDS, main.ended()).await {
        Ok(exit) => {
            VmmError::EndedEarly { program: program.to_owned(), exit, log: tail_lines(log).await }
        }
        Err(_) => error,
    }
}

/// The plan for what is to be launched.
pub(super) fn planned(
    version: FirecrackerVersion,
    spec: &LaunchSpec,
    confinement: Confinement,
    network: Option<NetworkRequest>,
) -> Result<Plan, VmmError> {
    let Boot::Kernel { kernel, initrd, disks } = &spec.boot else {
        return Err(VmmError::WrongBoot { driver: DriverKind::Firecracker, boot: "a process" });
    };
    let bytes = fs::metadata(initrd).map_err(VmmError::io("look at", initrd))?.len();
    let template = TemplateFacts {
        kernel: KernelFiles {
            image: kernel.image.clone(),
            format: kernel.facts.format,
            elf: kernel.elf.clone(),
        },
        start: Start::Initramfs(InitramfsFacts {
            path: initrd.clone(),
            bytes,
            modules: kernel.modules.clone(),
        }),
        kernel_args: kernel.extra_args.clone(),
        cpu: kernel.cpu_template.clone(),
    };
    let request = PlanRequest {
        run_dir: spec.run_dir.clone(),
        confinement,
        resources: spec.resources,
        transport: spec.transport,
        disks: disks.iter().zip(DISK_IDS).map(|(disk, it)| disk_request(disk, it)).collect(),
        network,
        vsock: (spec.vsock == VsockChoice::Auto).then_some(VsockRequest { guest_cid: GUEST_CID }),
        balloon: Some(tuning::balloon(&spec.tuning)),
        entropy: true,
        limits: tuning::limits(&spec.tuning.limits),
        huge_pages: tuning::pages(&spec.tuning),
        track_dirty_pages: spec.tracks_dirty_pages(),
        console: Console::Quiet,
        kernel_args: Vec::new(),
    };
    Ok(plan(&HostFacts::of_host(), version, &kernel.facts, &template, &request)?)
}

/// The ids of a VM's disks, and what they are for.
const DISK_IDS: [(&str, &str); 2] = [("root", "root file system"), ("overlay", "writable overlay")];

fn disk_request(disk: &Disk, (id, purpose): (&str, &'static str)) -> DiskRequest {
    DiskRequest { path: disk.path.clone(), read_only: disk.read_only, id: id.to_owned(), purpose }
}
