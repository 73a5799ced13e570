//! A VM's part of the host's network: taken before its VMM starts, released with the VM.

use crate::host::{Host, guest_net};
use aetherium_agent_proto::config::GuestNet;
use aetherium_model::{
    Code, Fault,
    resources::{DriverKind, NetworkMode},
    vm::Vm,
};
use aetherium_net::Slot;

/// Takes a slot for a VM whose driver has no network of its own; `None` where there is none to be
/// had, or none needed.
///
/// # Errors
/// The VM asks for more than vsock, and this host has no slots; or none could be made.
pub(super) async fn take_slot(host: &Host, vm: &Vm) -> Result<Option<Slot>, Fault> {
    if host.driver()?.kind() != DriverKind::Firecracker {
        return Ok(None);
    }
    match (&host.slots, vm.spec.network) {
        (Ok(slots), mode) => Ok(Some(slots.acquire(vm.id, mode).await?)),
        (Err(_), NetworkMode::Isolated) => Ok(None),
        (Err(why), NetworkMode::Egress) => {
            let detail = format!("this worker cannot give a VM a network: {why}");
            Err(Fault::new(Code::Conflict, detail)
                .remedy("run the worker as root, or create the VM with network isolated"))
        }
    }
}

/// The network as the guest is told of it. QEMU brings its own; the process and simulated drivers have no guest.
pub(super) fn seen_by_guest(driver: DriverKind, slot: Option<&Slot>) -> Option<GuestNet> {
    match (driver, slot) {
        (DriverKind::Firecracker, None) => None,
        (DriverKind::Firecracker, Some(_))
        | (DriverKind::Qemu | DriverKind::Process | DriverKind::Simulated, _) => Some(guest_net()),
    }
}
