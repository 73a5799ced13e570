//! The network of a build's VM where its driver brings none: a slot, in a pool of that VM's alone.
//!
//! So a build needs nothing of a worker beside it, nor that worker of the build: neither takes the other's
//! slots for left behind. A file in the VM's directory says, from before there is anything of the pool until
//! nothing of it is left, that there may be something: what a killed build had is found by it.

use super::place::Place;
use crate::WorkerError;
use aetherium_model::{Code, Fault, VmId, resources::NetworkMode};
use aetherium_net::{Prefix, Slot, Slots, SlotsConfig};
use std::{fs, io};

/// Says, by being there, that a slot may have been taken.
const MARK: &str = "network";

/// Takes a slot for a VM. Whatever comes of it, it is [`remove`]d in the end.
///
/// # Errors
/// This host can give none.
pub(super) async fn make(place: &Place, vm: VmId, mode: NetworkMode) -> Result<Slot, Fault> {
    let mark = place.path().join(MARK);
    fs::write(&mark, []).map_err(|error| WorkerError::io(&mark, error))?;
    let made = async { pool(vm).await?.acquire(vm, mode).await };
    made.await.map_err(|error| refused(&error.to_string()))
}

/// Takes away what network a VM that has ended may have had.
pub(super) async fn remove(place: &Place, vm: VmId) -> Result<(), Fault> {
    let mark = place.path().join(MARK);
    if !mark.exists() {
        return Ok(());
    }
    let slots = pool(vm).await?;
    for slot in slots.orphans(&[]).await? {
        slots.release_orphan(&slot).await?;
    }
    slots.close().await?;
    match fs::remove_file(&mark) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(WorkerError::io(&mark, error).into())
        }
        _ => Ok(()),
    }
}

async fn pool(vm: VmId) -> Result<Slots, aetherium_net::NetError> {
    Slots::new(SlotsConfig::new(Prefix::of_vm(vm))).await
}

/// A step needs what its VM cannot have.
pub(super) fn refused(why: &str) -> Fault {
    let detail =
        format!("this host cannot give a build's VM a network, and a step needs one: {why}");
    Fault::new(Code::Conflict, detail).remedy(
        "build as root, or with --driver qemu; VMs of the template may run under Firecracker",
    )
}
