//! The VMs of a build: booted with a root disk that is theirs to change, ended in order, and gone.

use super::{BuildGround, BuildLog, network, place, place::Place, steps, was_cancelled};
use crate::{
    host::{SlotChoice, guest_net},
    vm::{self, Bootable},
};
use aetherium_agent_proto::{
    Token,
    config::{Disk as GuestDisk, DiskSelector, GuestConfig, GuestNet, RootAccess, Transports},
};
use aetherium_image::{
    Draft,
    recipe::{Layer, Step, disk},
};
use aetherium_model::{
    Code, Fault, VmId,
    resources::{DriverKind, NetworkMode, Resources},
    tuning::Tuning,
};
use aetherium_net::Slot;
use aetherium_vmm::{
    Boot, Disk, LaunchSpec, Machine, VsockChoice, firecracker::plan::TransportChoice,
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

const INITRD: &str = "initrd";
/// How long a guest may take to end once it was asked, on a busy host.
const END_DEADLINE: Duration = Duration::from_secs(60);
/// How long the VMM's processes may take to die once killed.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// The VMs of one build, one after the other.
pub(super) struct Guests<'a> {
    ground: &'a BuildGround,
    draft: &'a Draft,
    size: Resources,
}

impl<'a> Guests<'a> {
    /// Gets ready to start some: removes what killed builds left, and lets the driver learn how guests
    /// of this kernel run best here.
    pub(super) async fn new(
        ground: &'a BuildGround,
        draft: &'a Draft,
        size: Resources,
    ) -> Result<Self, Fault> {
        ground.layout.check_room_for_sockets()?;
        place::sweep(&ground.layout.builds(), &ground.driver).await?;
        let guest = vm::probe_of(&Bootable::from(draft), draft.work().join("probe")).await?;
        let found = ground.driver.prepare(&guest).await;
        tracing::info!(found = found.found, "accelerator");
        Ok(Self { ground, draft, size })
    }

    /// Boots one with `root` as its root disk, has a layer's steps done in it, and ends it in order.
    /// Whatever comes of it, nothing of the VM is left but what it wrote to the disk.
    pub(super) async fn run(
        &self,
        root: &Path,
        layer: &Layer,
        log: &dyn BuildLog,
        cancelled: &CancellationToken,
    ) -> Result<(), Fault> {
        let vm_id = VmId::new();
        let place = Place::make(&self.ground.layout.builds(), vm_id)?;
        let outcome = Box::pin(self.run_in(&place, vm_id, root, layer, log, cancelled)).await;
        place.clear(&self.ground.driver).await;
        outcome
    }

    async fn run_in(
        &self,
        place: &Place,
        vm_id: VmId,
        root: &Path,
        layer: &Layer,
        log: &dyn BuildLog,
        cancelled: &CancellationToken,
    ) -> Result<(), Fault> {
        let token = Token::from_random(rand::random());
        let slot = self.slot(place, vm_id, layer.network).await?;
        let spec = self.prepare(place, vm_id, root, layer.network, &token, slot).await?;
        // Dropped, a launch leaves nothing behind.
        let machine = tokio::select! {
            machine = self.ground.driver.launch(&spec) => machine?,
            () = cancelled.cancelled() => return Err(was_cancelled()),
        };
        let outcome = tokio::select! {
            outcome = Box::pin(self.story(&machine, &token, &layer.steps, log)) => outcome,
            () = cancelled.cancelled() => Err(was_cancelled()),
        };
        if let Err(error) = machine.kill(KILL_DEADLINE).await {
            tracing::error!(%error, "a process of a build's VM would not die");
        }
        outcome
    }

    /// A slot for a VM whose driver has no network of its own, where a step needs one or the agent is
    /// reached in no other way.
    async fn slot(
        &self,
        place: &Place,
        vm_id: VmId,
        network: NetworkMode,
    ) -> Result<Option<Slot>, Fault> {
        let BuildGround { driver, vsock, slots, .. } = self.ground;
        let alone = network == NetworkMode::Isolated && *vsock == VsockChoice::Auto;
        if driver.kind() != DriverKind::Firecracker || alone {
            return Ok(None);
        }
        match slots {
            SlotChoice::Auto => network::make(place, vm_id, network).await.map(Some),
            SlotChoice::Off => Err(network::refused("networks were given up by --no-slots")),
        }
    }

    async fn story(
        &self,
        machine: &Arc<dyn Machine>,
        token: &Token,
        steps: &[Step],
        log: &dyn BuildLog,
    ) -> Result<(), Fault> {
        let agent = vm::await_agent(self.ground.boot_deadline, machine, token).await?.agent;
        steps::run(&agent, steps, log).await?;
        let lost = |detail: String| {
            Fault::new(Code::AgentLost, detail)
                .remedy("try again; what the guest wrote may not be whole and was thrown away")
        };
        agent.shutdown().await.map_err(|error| lost(error.to_string()))?;
        match tokio::time::timeout(END_DEADLINE, machine.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(lost(format!(
                "the guest did not end within {} s of being asked to",
                END_DEADLINE.as_secs()
            ))),
        }
    }

    async fn prepare(
        &self,
        place: &Place,
        vm_id: VmId,
        root: &Path,
        network: NetworkMode,
        token: &Token,
        slot: Option<Slot>,
    ) -> Result<LaunchSpec, Fault> {
        let kind = self.ground.driver.kind();
        let net = seen_by_guest(kind, network, slot.is_some());
        let vsock = self.ground.vsock;
        let config = GuestConfig {
            token: Some(token.clone()),
            ends_by: vm::ends_by(kind),
            root: Some(GuestDisk::ext4(DiskSelector::Uuid(disk::uuid(root).await?))),
            root_access: RootAccess::Write,
            transports: Transports { vsock: vsock == VsockChoice::Auto, tcp: net.is_some() },
            net,
            ..GuestConfig::default()
        };
        let template = Bootable::from(self.draft);
        let initrd = place.path().join(INITRD);
        vm::write_initrd(template.initramfs.clone(), initrd.clone(), &config).await?;
        let disk =
            Disk { path: root.to_owned(), read_only: false, serial: "aetherium-root".to_owned() };
        let kernel = vm::guest_kernel(&template);
        let transport = self.draft.manifest().kernel.transport;
        Ok(LaunchSpec {
            vm_id,
            run_dir: place.path().to_owned(),
            resources: self.size,
            boot: Boot::Kernel { kernel, initrd, disks: vec![disk] },
            network,
            vsock,
            transport: transport.map_or(TransportChoice::Auto, TransportChoice::Only),
            snapshots: None,
            tuning: Tuning::default(),
            slot,
            volatile: None,
        })
    }
}

/// The network as the guest is told of it. Without a way out there are no name servers, so that none
/// are written into the template.
fn seen_by_guest(driver: DriverKind, network: NetworkMode, has_slot: bool) -> Option<GuestNet> {
    let has_one = driver != DriverKind::Firecracker || has_slot;
    has_one.then(|| match network {
        NetworkMode::Egress => guest_net(),
        NetworkMode::Isolated => GuestNet { dns: Vec::new(), ..guest_net() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_without_a_way_out_is_told_no_name_servers() {
        for (driver, has_slot) in [(DriverKind::Qemu, false), (DriverKind::Firecracker, true)] {
            let told = |network| seen_by_guest(driver, network, has_slot).unwrap().dns;
            assert!(told(NetworkMode::Isolated).is_empty());
            assert!(!told(NetworkMode::Egress).is_empty());
        }
        let alone = seen_by_guest(DriverKind::Firecracker, NetworkMode::Isolated, false);
        assert_eq!(alone, None);
    }
}
