//! What a VM would be, for whoever wants to see it without making one.

use super::start::{OVERLAY, kernel_boot};
use crate::Layout;
use aetherium_image::InstalledTemplate;
use aetherium_model::{VmId, vm::VmSpec};
use aetherium_vmm::{LaunchSpec, VsockChoice, firecracker::plan::TransportChoice};

/// What a driver would be given for a VM, before anything is made for it: it has no slot of the
/// network yet. The template's own initramfs stands for the VM's, which has a few hundred bytes more.
pub fn preview(
    template: &InstalledTemplate,
    layout: &Layout,
    vm: &VmSpec,
    vsock: VsockChoice,
) -> LaunchSpec {
    let vm_id = VmId::new();
    let run_dir = layout.vm(vm_id);
    let transport = vm.transport.or(template.manifest.kernel.transport);
    LaunchSpec {
        vm_id,
        boot: kernel_boot(template, template.initramfs(), run_dir.join(OVERLAY)),
        run_dir,
        resources: vm.resources,
        tuning: vm.tuning,
        network: vm.network,
        vsock,
        transport: transport.map_or(TransportChoice::Auto, TransportChoice::Only),
        snapshots: vm.snapshots.or(template.manifest.snapshots),
        slot: None,
        volatile: None,
    }
}
