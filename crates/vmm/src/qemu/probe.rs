//! A probe guest under QEMU: nothing but a kernel, its initramfs and a console.

use super::{
    command::{Plan, Start},
    program::Info,
};
use crate::{
    Accelerator, ProbeGuest, Role, VmmError,
    held::Held,
    kvm::{self, ProbeSize, Prober},
    spawn::Spawn,
};
use aetherium_model::VmId;
use async_trait::async_trait;
use std::{path::Path, time::Duration};

#[async_trait]
impl Prober for Info {
    fn vmm(&self) -> String {
        format!("QEMU {}", self.version_text)
    }

    fn deadline(&self) -> Duration {
        kvm::DEADLINE
    }

    async fn start(
        &self,
        guest: &ProbeGuest,
        size: ProbeSize,
        dir: &Path,
    ) -> Result<Held, VmmError> {
        let plan = Plan {
            name: "kvm-probe",
            accelerator: Accelerator::Kvm,
            sandbox: self.sandbox,
            vcpus: size.vcpus,
            memory: size.memory,
            balloon: false,
            start: Start::Kernel {
                image: &guest.kernel.image,
                initrd: &guest.initrd,
                extra_args: &guest.kernel.extra_args,
            },
            disks: &[],
            console: &dir.join("console.log"),
            network: None,
            monitor: None,
            vsock: None,
        };
        let spawn = Spawn {
            role: Role::Vmm,
            vm_id: VmId::new(),
            run_dir: dir,
            program: &self.path,
            args: plan.args()?,
            log: &dir.join("vmm.log"),
            stdout: None,
            inherit: None,
            bind: None,
        };
        spawn.start()
    }
}
