//! The template that a VM runs from: chosen once, by digest, and kept from being removed until the VM
//! is gone.
//!
//! The guest lays the VM's writable disk over the template's root filesystem, file by file. So a
//! disk that outlives its VM, a workspace's or a snapshot's, stays with the very template it was made
//! over, though the name may mean another one by now.

use crate::{WorkerError, host::Host};
use aetherium_image::{Holder, InstalledTemplate};
use aetherium_model::{
    Fault, TemplateRef, WorkspaceId,
    name::Name,
    vm::{Vm, VmSpec},
};

/// The template of a VM that is about to start, held for it. None where the driver's VMs start from
/// no template.
pub(super) fn hold(host: &Host, vm: &Vm) -> Result<Option<InstalledTemplate>, Fault> {
    if !host.driver()?.kind().starts_from_template() {
        return Ok(None);
    }
    let kept = match (vm.workspace_id, &vm.spec.snapshot) {
        (Some(workspace), _) => Some(hold_for_workspace(host, workspace, &vm.spec)?),
        (None, Some(snapshot)) => {
            host.templates.held(&Holder::Snapshot(snapshot.clone())).map_err(WorkerError::from)?
        }
        (None, None) => None,
    };
    let wanted = match kept {
        Some(template) => pinned(&template)?,
        None => vm.spec.pinned(),
    };
    let held = host.templates.hold(&Holder::Vm(vm.id), wanted).map_err(WorkerError::from)?;
    Ok(Some(held))
}

/// The template of a VM that has started. One that was started before templates were held runs from
/// what its name means.
pub(super) fn held(host: &Host, vm: &Vm) -> Result<InstalledTemplate, Fault> {
    let held = host.templates.held(&Holder::Vm(vm.id)).map_err(WorkerError::from)?;
    match held {
        Some(template) => Ok(template),
        None => Ok(host.templates.get(vm.spec.pinned()).map_err(WorkerError::from)?),
    }
}

/// Holds the template of a VM that was started before templates were held, and goes on.
pub(crate) fn hold_for_adopted(host: &Host, vm: &Vm) -> Result<(), Fault> {
    if !host.driver()?.kind().starts_from_template() {
        return Ok(());
    }
    let template = held(host, vm)?;
    host.templates.hold(&Holder::Vm(vm.id), pinned(&template)?).map_err(WorkerError::from)?;
    Ok(())
}

/// The template that a workspace's disk lies over: the one it was given when it was placed, else what
/// its name means when it is first needed; from then on always the same.
pub(crate) fn hold_for_workspace(
    host: &Host,
    workspace: WorkspaceId,
    spec: &VmSpec,
) -> Result<InstalledTemplate, Fault> {
    let holder = Holder::Workspace(workspace);
    let held = host.templates.held(&holder).map_err(WorkerError::from)?;
    match held {
        Some(template) => Ok(template),
        None => Ok(host.templates.hold(&holder, spec.pinned()).map_err(WorkerError::from)?),
    }
}

/// Keeps the template that a VM runs from for a snapshot of it.
pub(super) fn hold_for_snapshot(
    host: &Host,
    snapshot: &Name,
    template: &InstalledTemplate,
) -> Result<(), Fault> {
    let holder = Holder::Snapshot(snapshot.clone());
    host.templates.hold(&holder, pinned(template)?).map_err(WorkerError::from)?;
    Ok(())
}

fn pinned(template: &InstalledTemplate) -> Result<TemplateRef, Fault> {
    let digest = template.digest().map_err(WorkerError::from)?;
    Ok(TemplateRef::pinned(template.manifest.name.clone(), digest))
}
