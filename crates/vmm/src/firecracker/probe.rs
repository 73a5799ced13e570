//! A probe guest under Firecracker: nothing but a kernel, its initramfs and a console.

use super::{
    api::Api,
    launch::{furnish_plainly, listening, tell},
    plan::{
        Confinement, Console, HostFacts, HugePages, InitramfsFacts, KernelFiles, Plan, PlanRequest,
        RateLimits, Start, TemplateFacts, TransportChoice, VsockRequest, plan,
    },
    program::Info,
};
use crate::{
    ProbeGuest, Role, VmmError,
    held::Held,
    kvm::{ProbeSize, Prober},
    spawn::Spawn,
};
use aetherium_model::{
    VmId,
    resources::{Resources, VirtioTransport},
};
use async_trait::async_trait;
use std::{ffi::OsString, fs, path::Path, time::Duration};

/// How long the guest may take. There is no other way to run guests, and an overloaded host shall not
/// be taken for one that cannot: a guest that needs longer is of no use.
const DEADLINE: Duration = Duration::from_secs(30);

#[async_trait]
impl Prober for Info {
    fn vmm(&self) -> String {
        self.name()
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }

    async fn start(
        &self,
        guest: &ProbeGuest,
        size: ProbeSize,
        dir: &Path,
    ) -> Result<Held, VmmError> {
        let plan = planned(self, guest, size, dir)?;
        let (log, socket) = (dir.join("vmm.log"), dir.join("api.sock"));
        furnish_plainly(dir, &plan)?;
        let mut args: Vec<OsString> = vec!["--api-sock".into(), socket.clone().into()];
        args.extend(plan.program_args.iter().map(OsString::from));
        let spawn = Spawn {
            role: Role::Vmm,
            vm_id: VmId::new(),
            run_dir: dir,
            program: &self.path,
            args,
            log: &log,
            stdout: Some(&dir.join("console.log")),
            inherit: None,
            bind: None,
        };
        let main = spawn.start()?;
        let api = Api::new(socket);
        listening(&main, &api, &self.path, &log).await?;
        tell(&api, &plan.calls).await?;
        Ok(main)
    }
}

/// A guest without disks and network, over MMIO, which every kernel for Firecracker has.
fn planned(info: &Info, guest: &ProbeGuest, size: ProbeSize, dir: &Path) -> Result<Plan, VmmError> {
    let kernel = &guest.kernel;
    let bytes = fs::metadata(&guest.initrd).map_err(VmmError::io("look at", &guest.initrd))?.len();
    let template = TemplateFacts {
        kernel: KernelFiles {
            image: kernel.image.clone(),
            format: kernel.facts.format,
            elf: kernel.elf.clone(),
        },
        start: Start::Initramfs(InitramfsFacts {
            path: guest.initrd.clone(),
            bytes,
            modules: kernel.modules.clone(),
        }),
        kernel_args: kernel.extra_args.clone(),
        cpu: kernel.cpu_template.clone(),
    };
    let request = PlanRequest {
        run_dir: dir.to_owned(),
        confinement: Confinement::Plain,
        resources: Resources { vcpus: size.vcpus, memory_mib: size.memory, ..Resources::default() },
        transport: TransportChoice::Only(VirtioTransport::Mmio),
        disks: Vec::new(),
        network: None,
        // Nobody will call, but a plan without a way to the agent is refused.
        vsock: Some(VsockRequest { guest_cid: 3 }),
        balloon: None,
        entropy: false,
        limits: RateLimits::default(),
        huge_pages: HugePages::None,
        track_dirty_pages: false,
        console: Console::Quiet,
        kernel_args: Vec::new(),
    };
    Ok(plan(&HostFacts::default(), info.version, &kernel.facts, &template, &request)?)
}
