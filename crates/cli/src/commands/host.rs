//! `aetherium host prepare`: the checklist of a host that is to run VMs, and the agent in their root
//! filesystem.

use super::kernel;
use crate::{
    args::{Args, DriverArgs, HostCommand, PrepareArgs},
    datadir::DataDir,
    error::CliError,
    print,
    progress::Bars,
    server,
};
use aetherium_image::{
    AgentStamp, Check, ImageError, Placement,
    kernel::{Examined, Unpacked},
    prepare::{self, PreparedRootfs, RootfsJob},
};
use aetherium_model::{
    Code, Fault,
    finding::{Finding, Verdict},
};
use aetherium_vmm::{Firecracker, GuestKernel, ProbeGuest, Vmm as _, firecracker::kvm_device};
use aetherium_worker::Layout;
use serde::Serialize;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// A check failed.
const FAILED: u8 = 1;
/// The root filesystem needs somebody to look at it.
const ROOTFS: u8 = 3;
/// `EX_TEMPFAIL` of sysexits.h: try again.
const TRY_AGAIN: u8 = 75;

pub(crate) async fn dispatch(args: &Args, verb: &HostCommand) -> Result<ExitCode, CliError> {
    match verb {
        HostCommand::Prepare(wanted) => prepare(args, wanted).await,
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether VMs can start from these files on this host.
    ready: bool,
    /// Whether this run changed what VMs start from: the root filesystem, or the template.
    changed: bool,
    checks: Vec<Finding>,
    /// The agent in the root filesystem.
    agent: Option<AgentStamp>,
    /// The root filesystem as it was before this run.
    previous: Option<PathBuf>,
    /// What kept the root filesystem from being ready.
    fault: Option<Fault>,
}

impl Report {
    /// Of these checks alone.
    fn of(checks: Vec<Finding>) -> Self {
        let ready = checks.iter().all(|it| it.verdict != Verdict::Fail);
        Self { ready, changed: false, checks, agent: None, previous: None, fault: None }
    }
}

async fn prepare(args: &Args, wanted: &PrepareArgs) -> Result<ExitCode, CliError> {
    let data = DataDir::locate(args.data_dir.as_deref())?;
    let bars = Bars::new();
    let device = bearable(kvm_device(), wanted);
    let has_kvm = device.verdict == Verdict::Ok;
    let mut checks = vec![device];
    let Parts { kernel, rootfs: image, findings, taken_in } =
        match parts(&data, wanted, &bars).await {
            Ok(parts) => parts,
            Err(fault) => {
                bars.clear();
                checks.push(failed("template", "VMs start from it", &fault));
                let report = Report { fault: Some(fault), ..Report::of(checks) };
                return finish(args, &report, FAILED);
            }
        };
    checks.extend(findings);
    match look_at_kernel(&data, &kernel, wanted, &bars).await {
        Ok((image, examined)) => {
            checks.extend(aetherium_image::kernel::findings(&examined));
            if has_kvm && !wanted.no_probe {
                let probed = probe(&data, wanted, image, &examined, &bars).await?;
                checks.extend(probed.map(|finding| bearable(finding, wanted)));
            }
        }
        Err(fault) => checks.push(failed("kernel.image", "VMs start from it", &fault)),
    }
    let prepared = rootfs(wanted, image, &bars).await;
    bars.clear();
    let (mut report, code) = report(checks, prepared);
    report.changed |= taken_in;
    finish(args, &report, code)
}

fn finish(args: &Args, report: &Report, code: u8) -> Result<ExitCode, CliError> {
    if args.json {
        print::json(report)?;
    } else {
        show(report);
    }
    Ok(ExitCode::from(code))
}

/// What VMs start from.
struct Parts {
    kernel: PathBuf,
    rootfs: PathBuf,
    /// What was found about the two together.
    findings: Vec<Finding>,
    /// Whether they are those of a template that this run took in.
    taken_in: bool,
}

/// The files that were named, or those of the template, which is taken in first if there is a file of it.
async fn parts(data: &DataDir, wanted: &PrepareArgs, bars: &Bars) -> Result<Parts, Fault> {
    let Some(name) = &wanted.template else {
        // The grammar asks for both where no template is named.
        let [kernel, rootfs] =
            [&wanted.kernel, &wanted.rootfs].map(|it| it.clone().unwrap_or_default());
        return Ok(Parts { kernel, rootfs, findings: Vec::new(), taken_in: false });
    };
    let store = super::template::open(data).map_err(|error| error.fault().clone())?;
    let before = store.get(name).ok().map(|it| it.digest()).transpose()?;
    let template = match &wanted.import {
        Some(file) => {
            let place = Placement { name: Some(name.clone()), replace: true };
            aetherium_image::import(&store, file, &place, bars).await?
        }
        None => store.get(name)?,
    };
    let taken_in = before.as_ref() != Some(&template.digest()?);
    let manifest = &template.manifest;
    let found = format!(
        "{name}{}: {}, with agent {} in its initramfs",
        if taken_in { ", taken in now" } else { "" },
        manifest.rootfs.origin,
        manifest.initramfs.agent_version
    );
    let (kernel, rootfs) = (template.kernel(), template.rootfs());
    let mut findings = vec![Finding::ok("template", found, "VMs start from it")];
    bars.spin(&format!("verifying template {name}"));
    let verified = tokio::task::spawn_blocking(move || {
        [template.verify(Check::Full), template.verify_kernel()].concat()
    });
    findings.extend(verified.await.map_err(Fault::internal)?);
    Ok(Parts { kernel, rootfs, findings, taken_in })
}

/// What KVM lacks is a failure, unless VMs may be emulated.
fn bearable(finding: Finding, wanted: &PrepareArgs) -> Finding {
    match finding.verdict {
        Verdict::Ok => finding,
        _ if wanted.allow_no_kvm => Finding { verdict: Verdict::Warn, ..finding },
        _ => Finding { verdict: Verdict::Fail, ..finding },
    }
}

async fn look_at_kernel(
    data: &DataDir,
    named: &Path,
    wanted: &PrepareArgs,
    bars: &Bars,
) -> Result<(PathBuf, Examined), Fault> {
    let resolved = kernel::resolve(data, named);
    let image = resolved.map_err(|error| error.fault().clone())?.image;
    bars.spin(&format!("reading kernel {}", image.display()));
    let examined = kernel::examine(image.clone(), wanted.config.clone()).await?;
    Ok((image, examined))
}

/// Starts a guest of this kernel, if Firecracker and an agent are at hand; KVM may open and yet run none.
async fn probe(
    data: &DataDir,
    wanted: &PrepareArgs,
    image: PathBuf,
    examined: &Examined,
    bars: &Bars,
) -> Result<Option<Finding>, CliError> {
    let driver = DriverArgs {
        firecracker: wanted.firecracker.clone(),
        agent: wanted.agent.clone(),
        ..DriverArgs::default()
    };
    let Some(agent) = server::agent_binary(&driver) else { return Ok(None) };
    data.create()?;
    let layout = Layout::open(data.path()).map_err(Fault::from)?;
    let config = server::driver_config(data, &layout, &driver);
    if !Firecracker::is_installed(&config) {
        return Ok(None);
    }
    bars.spin("starting a guest under KVM");
    let dir = ProbeFiles::new(&layout)?;
    let guest = dir.guest(image, examined, &agent).await?;
    Ok(Some(Firecracker::new(&config).prepare(&guest).await))
}

/// The files of a probe, which go with it.
struct ProbeFiles(PathBuf);

impl ProbeFiles {
    fn new(layout: &Layout) -> Result<Self, Fault> {
        let dir = layout.probes().join(format!("host-{}", std::process::id()));
        let made = std::fs::create_dir_all(&dir);
        made.map_err(|error| crate::error::local(dir.display(), error))?;
        Ok(Self(dir))
    }

    async fn guest(
        &self,
        image: PathBuf,
        examined: &Examined,
        agent: &Path,
    ) -> Result<ProbeGuest, Fault> {
        let (base, initrd) = (self.0.join("agent.cpio"), self.0.join("initrd"));
        aetherium_image::agent_initramfs(agent, &base).await?;
        aetherium_worker::write_probe_initrd(base, initrd.clone()).await?;
        let elf = match &examined.elf {
            Unpacked::Inside(elf) => {
                let place = self.0.join("kernel.elf");
                std::fs::write(&place, elf)
                    .map_err(|error| crate::error::local(place.display(), error))?;
                Some(place)
            }
            Unpacked::Already | Unpacked::Unreadable(_) => None,
        };
        let file = image.clone();
        let digest = tokio::task::spawn_blocking(move || aetherium_image::sha256_of_file(&file));
        let kernel_sha256 = digest.await.map_err(Fault::internal)??;
        let facts = examined.facts.clone();
        let kernel = GuestKernel {
            image,
            elf,
            facts,
            extra_args: Vec::new(),
            modules: Vec::new(),
            cpu_template: None,
        };
        Ok(ProbeGuest { kernel, kernel_sha256, initrd })
    }
}

impl Drop for ProbeFiles {
    fn drop(&mut self) {
        // Left files cost a few MiB, and the next probe of this process id removes them.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn rootfs(
    wanted: &PrepareArgs,
    image: PathBuf,
    bars: &Bars,
) -> Result<PreparedRootfs, RootfsFault> {
    let driver = DriverArgs { agent: wanted.agent.clone(), ..DriverArgs::default() };
    let agent = match (wanted.install_agent, server::agent_binary(&driver)) {
        (false, _) => None,
        (true, Some(agent)) => Some(agent),
        (true, None) => {
            let detail = "the guest agent's binary, fc-agent, is not beside this program";
            let fault = Fault::new(Code::NotFound, detail).remedy("name it with --agent");
            return Err(RootfsFault { fault, code: FAILED });
        }
    };
    let job = RootfsJob { rootfs: image, agent, patience: wanted.wait };
    prepare::rootfs(&job, bars).await.map_err(|error| RootfsFault {
        code: match error {
            ImageError::RootfsDamaged { .. } | ImageError::RootfsInUse { .. } => ROOTFS,
            ImageError::RootfsBusy { .. } => TRY_AGAIN,
            _ => FAILED,
        },
        fault: error.into(),
    })
}

/// Why the root filesystem is not ready, and the exit code that says so.
struct RootfsFault {
    fault: Fault,
    code: u8,
}

fn report(mut checks: Vec<Finding>, prepared: Result<PreparedRootfs, RootfsFault>) -> (Report, u8) {
    let (prepared, fault, rootfs_code) = match prepared {
        Ok(prepared) => (Some(prepared), None, 0),
        Err(RootfsFault { fault, code }) => {
            checks.push(failed("rootfs", "every VM has it as its /", &fault));
            (None, Some(fault), code)
        }
    };
    let (findings, agent, previous) =
        prepared.map_or_else(Default::default, |it| (it.findings, it.agent, it.previous));
    checks.extend(findings);
    let report =
        Report { changed: previous.is_some(), agent, previous, fault, ..Report::of(checks) };
    let code = match (report.ready, rootfs_code) {
        (true, _) => 0,
        (false, 0) => FAILED,
        (false, code) => code,
    };
    (report, code)
}

fn failed(check: &str, why: &str, fault: &Fault) -> Finding {
    Finding::fail(check, fault.detail.clone(), why, fault.remedy.clone())
}

fn show(report: &Report) {
    checklist(&report.checks);
    for line in report.fault.iter().flat_map(|fault| &fault.evidence) {
        println!("  | {line}");
    }
    let failed = report.checks.iter().filter(|it| it.verdict == Verdict::Fail).count();
    println!();
    match (report.ready, report.changed) {
        (true, true) => println!("ready: what VMs start from has been changed"),
        (true, false) => println!("ready: there was nothing to do"),
        (false, _) => println!("not ready: {failed} of {} checks failed", report.checks.len()),
    }
}

/// Prints findings as a list to be ticked off; what is not as it should be says why that matters and
/// what to do.
pub(crate) fn checklist(findings: &[Finding]) {
    let width = findings.iter().map(|it| it.check.len()).max().unwrap_or(0);
    for it in findings {
        let mark = match it.verdict {
            Verdict::Ok => '✓',
            Verdict::Warn => '!',
            Verdict::Fail => '✗',
        };
        println!("{mark} {:width$}  {}", it.check, it.found);
        if it.verdict != Verdict::Ok {
            println!("  {:width$}  matters: {}", "", it.why);
            println!("  {:width$}  to do:   {}", "", it.remedy);
        }
    }
}
