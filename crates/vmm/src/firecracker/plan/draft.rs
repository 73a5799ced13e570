//! A plan in the making. Its steps are in [`super::machine`] and [`super::devices`].

use super::{
    AgentTransport, Confinement, FileUse, FirecrackerVersion, HostFacts, KnownBad, Plan, PlanError,
    PlanRequest, Reason, SharedFile, TemplateFacts, Topic,
    guest::{Guest, Has},
    kernel_args, transport,
};
use aetherium_model::{kernel::KernelOption, resources::VirtioTransport};
use std::path::{Path, PathBuf};

/// Memory beyond this is in a second slot of KVM's, which is what [`KnownBad::LargeDiffSnapshots`]
/// is about.
const LARGE_MEMORY_MIB: u32 = 3072;

/// What a plan is made from, and as much of it as there is.
pub(super) struct Draft<'a> {
    pub(super) host: &'a HostFacts,
    pub(super) version: FirecrackerVersion,
    pub(super) guest: Guest<'a>,
    pub(super) template: &'a TemplateFacts,
    pub(super) request: &'a PlanRequest,
    pub(super) plan: Plan,
}

impl<'a> Draft<'a> {
    /// Begins with the choice on which most others depend.
    pub(super) fn begin(
        host: &'a HostFacts,
        version: FirecrackerVersion,
        guest: Guest<'a>,
        template: &'a TemplateFacts,
        request: &'a PlanRequest,
    ) -> Result<Self, PlanError> {
        if version < FirecrackerVersion::OLDEST {
            return Err(PlanError::FirecrackerTooOld { version });
        }
        let pci_off = kernel_args::pci_off(extra_args(template, request));
        let (transport, why) = transport::choose(request.transport, version, &guest, pci_off)?;
        let program_args = match transport {
            VirtioTransport::Pci => vec!["--enable-pci".to_owned()],
            VirtioTransport::Mmio => Vec::new(),
        };
        let plan = Plan {
            firecracker: version,
            transport,
            program_args,
            kernel_args: String::new(),
            appended_args: Vec::new(),
            calls: Vec::new(),
            devices: Vec::new(),
            agent: Vec::new(),
            hears_ctrl_alt_del: true,
            files: Vec::new(),
            warnings: Vec::new(),
            reasons: Vec::new(),
        };
        let mut draft = Self { host, version, guest, template, request, plan };
        draft.because(Topic::Transport, transport.as_str(), why);
        Ok(draft)
    }

    /// The finished plan.
    ///
    /// # Errors
    /// When nothing could reach the agent.
    pub(super) fn finish(mut self) -> Result<Plan, PlanError> {
        let Some(best) = self.plan.agent.first() else {
            return Err(PlanError::NoAgentTransport);
        };
        let (chosen, why) = match (best, self.plan.agent.len()) {
            (AgentTransport::Vsock { .. }, 1) => ("vsock", "there is no other way"),
            (AgentTransport::Vsock { .. }, _) => {
                ("vsock, else tcp", "vsock needs nothing of the guest's network, so it goes first")
            }
            (AgentTransport::Tcp { .. }, _) => ("tcp", "there is no virtio socket"),
        };
        self.because(Topic::Agent, chosen, why.to_owned());
        self.plan.warnings =
            self.version.known_bad().filter(|defect| self.can_meet(*defect)).collect();
        Ok(self.plan)
    }

    fn can_meet(&self, defect: KnownBad) -> bool {
        match defect {
            KnownBad::LargeDiffSnapshots => {
                self.request.track_dirty_pages
                    && self.request.resources.memory_mib.get() > LARGE_MEMORY_MIB
            }
            KnownBad::RestoredVsock | KnownBad::PausedVsock => {
                self.plan.agent.iter().any(|way| matches!(way, AgentTransport::Vsock { .. }))
            }
            KnownBad::RestoredConsole => true,
        }
    }

    pub(super) fn because(
        &mut self,
        topic: Topic,
        chosen: impl Into<String>,
        why: impl Into<String>,
    ) {
        self.plan.reasons.push(Reason { topic, chosen: chosen.into(), why: why.into() });
    }

    fn driver_missing(&self, option: KernelOption, purpose: &'static str) -> PlanError {
        PlanError::DriverMissing { release: self.guest.kernel.release.clone(), option, purpose }
    }

    pub(super) fn require(
        &self,
        option: KernelOption,
        purpose: &'static str,
    ) -> Result<(), PlanError> {
        match self.guest.has(option) {
            Has::No => Err(self.driver_missing(option, purpose)),
            Has::Yes | Has::Unknown => Ok(()),
        }
    }

    /// Gives Firecracker a file of the host, under a name in the directory it runs in.
    ///
    /// Jailed or not, it is told names without a directory: a snapshot holds them, and so it loads in
    /// any VM's place.
    pub(super) fn share(&mut self, host: &Path, name: &str, usage: FileUse) -> String {
        self.plan.files.push(SharedFile { host: host.to_owned(), vmm: name.into(), usage });
        name.to_owned()
    }

    /// Names a file that is this VM's own; gives its name on the host and Firecracker's for it.
    pub(super) fn own(&mut self, name: &str, usage: FileUse) -> (PathBuf, String) {
        let host = match &self.request.confinement {
            Confinement::Plain => self.request.run_dir.join(name),
            Confinement::Jailed { root } => root.join(name),
        };
        self.plan.files.push(SharedFile { host: host.clone(), vmm: name.into(), usage });
        (host, name.to_owned())
    }
}

/// The kernel arguments beyond ours, in their order.
pub(super) fn extra_args<'a>(
    template: &'a TemplateFacts,
    request: &'a PlanRequest,
) -> impl Iterator<Item = &'a str> + Clone {
    template.kernel_args.iter().chain(&request.kernel_args).map(String::as_str)
}
