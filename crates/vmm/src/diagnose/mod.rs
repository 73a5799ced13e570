//! Why a VM did not boot, or ended: from what its console and VMM left behind.
//!
//! [`explain`] is pure: the same evidence gives the same verdict. It says what the evidence shows
//! and never guesses; what shows nothing is [`Code::BootFailedUnknown`] with the last lines.
//! [`gather`] reads the evidence, and [`watch_boot`] notices that a boot is lost before anybody's
//! deadline passes.

mod console;
mod text;
mod vmm;
mod watch;

pub(crate) use text::{read_tail, tail_lines};
pub use watch::watch_boot;

use crate::{Footprint, VmmExit};
use aetherium_agent_proto::console::Stage;
use aetherium_model::{Code, Fault};
use std::time::Duration;
use vmm::Complaint;

const MIB: u64 = 1024 * 1024;

/// Where a VM stood when it ended or was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Its agent had not answered yet.
    #[default]
    Booting,
    /// Its agent had answered.
    Running,
}

/// What there is to judge by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Where it stood.
    pub phase: Phase,
    /// The last part of what kernel and init printed.
    pub console_tail: String,
    /// The last part of what the VMM printed.
    pub vmm_log_tail: String,
    /// How the VMM ended; `None` while it runs.
    pub exit: Option<VmmExit>,
    /// How long the agent was waited for in vain; `None` if nobody lost patience.
    pub waited: Option<Duration>,
    /// The guest's memory in MiB; 0 if not known.
    pub memory_mib: u32,
    /// Bytes of memory that kernel and initramfs need to begin; 0 if not known.
    pub boot_needs_bytes: u64,
}

/// Reads the evidence of a VM. A log that is missing is empty.
pub async fn gather(
    footprint: &Footprint,
    phase: Phase,
    exit: Option<VmmExit>,
    waited: Option<Duration>,
) -> Evidence {
    Evidence {
        phase,
        console_tail: read_tail(&footprint.console).await,
        vmm_log_tail: read_tail(&footprint.vmm_log).await,
        exit,
        waited,
        memory_mib: footprint.memory_mib,
        boot_needs_bytes: footprint.boot_needs_bytes,
    }
}

/// Says why the VM ended or did not boot.
pub fn explain(evidence: &Evidence) -> Fault {
    let console = text::clean_lines(&evidence.console_tail);
    let vmm_log = text::clean_lines(&evidence.vmm_log_tail);
    let fault = killed(evidence, &vmm_log)
        .or_else(|| console::verdict(&console))
        .or_else(|| refused(evidence, &console, &vmm_log))
        .or_else(|| crashed(evidence, &console, &vmm_log))
        .or_else(|| too_small(evidence, &console))
        .or_else(|| shut_down(evidence, &console))
        .or_else(|| gave_up(evidence, &console))
        .unwrap_or_else(|| unknown(evidence, &console, &vmm_log));
    let remedy = remedy(fault.code);
    if fault.remedy.is_empty() { fault.remedy(remedy) } else { fault }
}

/// Signals that a program raises by its own fault; any other comes from outside. See signal(7).
fn is_crash(signal: i32) -> bool {
    use rustix::process::Signal;
    [Signal::ILL, Signal::TRAP, Signal::ABORT, Signal::BUS, Signal::FPE, Signal::SEGV, Signal::SYS]
        .iter()
        .any(|crash| crash.as_raw() == signal)
}

fn killed(evidence: &Evidence, vmm_log: &[String]) -> Option<Fault> {
    match evidence.exit {
        Some(exit @ VmmExit::Signal(signal)) if !is_crash(signal) => Some(
            Fault::new(Code::VmmKilled, format!("the VMM {exit}")).evidence(text::last(vmm_log)),
        ),
        _ => None,
    }
}

/// The VMM says what it, or KVM, refused to do.
fn refused(evidence: &Evidence, console: &[String], vmm_log: &[String]) -> Option<Fault> {
    let fault = match vmm::complaint(vmm_log)? {
        // Firecracker exits with 0 when KVM gives up under its guest, so how it ended tells nothing.
        Complaint::Kvm(line) => Fault::new(Code::KvmFailed, format!("KVM failed: {line}")),
        _ if !never_ran(evidence, console) => return None,
        Complaint::Kernel(_) if lacks_memory(evidence) => memory_fault(evidence),
        Complaint::Kernel(line) => {
            Fault::new(Code::KernelUnsupported, format!("the VMM cannot load the kernel: {line}"))
        }
        Complaint::Network(line) => {
            Fault::new(Code::NetworkFailed, format!("the VMM has no TAP: {line}"))
        }
        Complaint::Api(line) => {
            Fault::new(Code::VmmStartFailed, format!("the VMM refused its configuration: {line}"))
        }
    };
    Some(fault.evidence(text::last(vmm_log)))
}

/// Whether the guest did not come to print anything, and did not end in order either.
fn never_ran(evidence: &Evidence, console: &[String]) -> bool {
    evidence.phase == Phase::Booting
        && console.is_empty()
        && evidence.exit != Some(VmmExit::Code(0))
}

/// The VMM failed, whatever the guest was doing.
fn crashed(evidence: &Evidence, console: &[String], vmm_log: &[String]) -> Option<Fault> {
    let exit = evidence.exit.filter(|exit| !matches!(exit, VmmExit::Code(0) | VmmExit::Unknown))?;
    let never_ran = evidence.phase == Phase::Booting && console.is_empty();
    let code = if never_ran { Code::VmmStartFailed } else { Code::VmmExited };
    let said = vmm_log.last().map(|line| format!(": {line}")).unwrap_or_default();
    Some(Fault::new(code, format!("the VMM {exit}{said}")).evidence(text::last(vmm_log)))
}

/// A kernel that does not fit into its memory resets before it has a console to complain on.
fn too_small(evidence: &Evidence, console: &[String]) -> Option<Fault> {
    let silent = evidence.phase == Phase::Booting && console.is_empty();
    (silent && lacks_memory(evidence)).then(|| memory_fault(evidence))
}

fn lacks_memory(evidence: &Evidence) -> bool {
    let has = u64::from(evidence.memory_mib) * MIB;
    has != 0 && has < evidence.boot_needs_bytes
}

fn memory_fault(evidence: &Evidence) -> Fault {
    let detail = format!(
        "the guest has {} MiB of memory, and its kernel and initramfs need {} MiB to begin",
        evidence.memory_mib,
        evidence.boot_needs_bytes.div_ceil(MIB)
    );
    Fault::new(Code::GuestOutOfMemory, detail)
}

fn shut_down(evidence: &Evidence, console: &[String]) -> Option<Fault> {
    let exit = evidence.exit?;
    let fault =
        |detail: &str| Fault::new(Code::GuestShutdown, detail).evidence(text::last(console));
    match (evidence.phase, console::shut_down(console)) {
        (Phase::Running, Some(_)) => Some(fault("the guest shut itself down")),
        (Phase::Booting, Some(_)) => Some(
            fault("the guest shut itself down before its agent answered")
                .remedy("look on the console for what powered it off"),
        ),
        // A guest that resets without a word ends its VMM in order, too.
        (Phase::Running, None) if exit == VmmExit::Code(0) => {
            Some(fault("the guest ended without a word"))
        }
        (Phase::Running, None) => Some(
            Fault::new(Code::VmmExited, format!("the VMM {exit}")).evidence(text::last(console)),
        ),
        (Phase::Booting, None) => None,
    }
}

/// Nobody failed, but somebody lost patience.
fn gave_up(evidence: &Evidence, console: &[String]) -> Option<Fault> {
    let waited = evidence.waited.filter(|_| evidence.exit.is_none())?;
    let within = format!("within {:.1} s", waited.as_secs_f32());
    let (code, detail) = match evidence.phase {
        Phase::Running => (
            Code::AgentLost,
            format!("the agent has not answered for {:.1} s", waited.as_secs_f32()),
        ),
        Phase::Booting => match console::last_stage(console) {
            Some(stage) => silent_agent(console, stage, &within),
            None => no_init_yet(console, &within),
        },
    };
    Some(Fault::new(code, detail).evidence(text::last(console)))
}

fn silent_agent(console: &[String], stage: Stage, within: &str) -> (Code, String) {
    if let Some(trouble) = console::interface_trouble(console) {
        return (Code::NetworkFailed, format!("the agent did not answer {within}: {trouble}"));
    }
    let detail = match stage {
        Stage::Listening => format!("the agent listens, but did not answer {within}"),
        _ => format!("the guest's init came as far as {:?} {within}", stage.as_str()),
    };
    (Code::AgentSilent, detail)
}

fn no_init_yet(console: &[String], within: &str) -> (Code, String) {
    if let Some(root) = console::awaited_root(console) {
        let detail = format!("the kernel still waits for its root on {root}, {within}");
        return (Code::RootNotFound, detail);
    }
    if let Some(line) = console::other_init(console) {
        let detail = format!("the guest runs another init, and no agent answered {within}: {line}");
        return (Code::AgentMissing, detail);
    }
    let how = if console.is_empty() { "printed nothing" } else { "reached no init" };
    (Code::BootTimeout, format!("the guest {how} {within}"))
}

fn unknown(evidence: &Evidence, console: &[String], vmm_log: &[String]) -> Fault {
    let what = match evidence.exit {
        Some(exit) => format!("the VMM {exit}"),
        None => "the guest runs".to_owned(),
    };
    let detail = if console.is_empty() {
        format!("{what}, and its console is empty")
    } else {
        format!("{what}, and its console does not say why")
    };
    let lines = if console.is_empty() { vmm_log } else { console };
    Fault::new(Code::BootFailedUnknown, detail).evidence(text::last(lines))
}

const fn remedy(code: Code) -> &'static str {
    match code {
        Code::RootNotFound => {
            "rebuild the template, so that its initramfs and root file system belong together"
        }
        Code::RootMountFailed => {
            "rebuild the template; if it fails again, its kernel lacks the file system"
        }
        Code::OverlayFailed => "see whether the host's disk is full, then create the VM anew",
        Code::InitMissing | Code::TemplateBroken => {
            "rebuild the template: its initramfs is damaged"
        }
        Code::InitExited => "the lines before the last tell what the init complained about",
        Code::GuestOutOfMemory => "give the VM more memory: 256 MiB suffice for most kernels",
        Code::KernelPanic => "try another kernel in the template, or fewer extra kernel arguments",
        Code::AgentSilent => {
            "see the console for the last stage; an overloaded host needs a longer deadline"
        }
        Code::BootTimeout => {
            "see whether the host is overloaded, and whether the kernel suits the machine"
        }
        Code::KernelUnsupported => {
            "build the template again, which unpacks its kernel, or use a VMM that can load it"
        }
        Code::KvmFailed => {
            "run `aetherium doctor`: /dev/kvm must open, and the host's virtualization must work"
        }
        Code::VsockMissing => "use a kernel with CONFIG_VIRTIO_VSOCKETS, or give the VM a network",
        Code::NetworkFailed => {
            "see that the VM's TAP is there and that its kernel has CONFIG_VIRTIO_NET"
        }
        Code::AgentMissing => "build the template again, so that its initramfs brings the agent",
        Code::VmmKilled => {
            "see the host's log for its out-of-memory killer, or for who sent the signal"
        }
        Code::VmmStartFailed | Code::VmmExited => "the last line of the VMM's log names the cause",
        Code::AgentLost => "the guest may be out of memory or hung: stop it and start a new one",
        Code::BootFailedUnknown => "boot it once more without `quiet` to see the kernel's messages",
        _ => "",
    }
}

#[cfg(test)]
mod tests;
