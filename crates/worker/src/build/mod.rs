//! Builds templates of recipes: each layer of steps runs in a VM whose root disk is a copy of what the
//! layer before has left.
//!
//! ```text
//! Draft (base) ─ writable copy ─► boot ─ steps ─ orderly end ─► fsck ─► kept under the layer's key
//!                     ▲                                                      │ next layer
//!                     └──────────────────────────────────────────────────────┘
//!                                                    after the last: sealed, installed
//! ```
//! A step's command is run in a guest and nowhere else. A guest that did not end in order, or whose
//! filesystem is not whole, ends the build; nothing of it is kept then. However a build ends, no
//! process and no file of its VMs is left; what a killed one left, the next one removes.

mod log;
mod network;
mod place;
mod steps;
mod task;
mod vm;

pub(crate) use task::{derived, from_task, sweep};

use crate::{Layout, SlotChoice};
use aetherium_image::{
    BuildRequest, Draft, InstalledTemplate, Progress, TemplateStore,
    recipe::{Plan, StepCache, disk},
};
use aetherium_model::{
    Code, Fault, TemplateRef,
    build::BuildEvent,
    recipe::{BuildVm as Wanted, Recipe},
    resources::Resources,
};
use aetherium_vmm::{Vmm, VsockChoice};
use std::{path::Path, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Root filesystems that steps left are kept up to so many bytes on the disk: some tens of layers.
const STEP_CACHE_BYTES: u64 = 10 << 30;
/// The size of a build's VMs where the recipe does not say.
const VCPUS: u32 = 2;
const MEMORY_MIB: u32 = 1024;
/// Room for what steps write, in MiB, where the recipe does not say. It is sparse.
const ROOM_MIB: u32 = 4096;

/// Is told what a build does.
pub trait BuildLog: Progress {
    /// Something happened.
    fn event(&self, event: BuildEvent);
}

/// Whether steps that were done before are done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StepReuse {
    /// What is kept of earlier builds is taken.
    #[default]
    Kept,
    /// All steps are run.
    None,
}

/// What a build works with. It may run beside a worker of the same data directory.
pub struct BuildGround {
    /// The data directory.
    pub layout: Layout,
    /// Where templates come from and go to.
    pub templates: TemplateStore,
    /// What starts its VMs.
    pub driver: Arc<dyn Vmm>,
    /// Whether they get a virtio socket.
    pub vsock: VsockChoice,
    /// Whether those whose steps need a network get one of the host's where the driver has none.
    pub slots: SlotChoice,
    /// How long each may take from its VMM's start to its agent's first answer.
    pub boot_deadline: Duration,
    /// Whether steps that were done before are done again.
    pub reuse: StepReuse,
}

/// Builds a template for a tag of the request's name: the base as the request says, then the plan's
/// steps.
///
/// # Errors
/// Why it was not built; the store is then as it was. [`Code::StepFailed`] names the step, with its last
/// lines of output; [`Code::Cancelled`] after `cancelled`.
pub async fn build_template(
    ground: &BuildGround,
    request: &BuildRequest,
    place: &TemplateRef,
    recipe: &Recipe,
    plan: &Plan,
    log: &dyn BuildLog,
    cancelled: &CancellationToken,
) -> Result<InstalledTemplate, Fault> {
    if !ground.driver.kind().starts_from_template() && !plan.layers.is_empty() {
        let kind = ground.driver.kind();
        return Err(Fault::new(
            Code::DriverUnavailable,
            format!("the {kind} driver has no guest in which steps could run"),
        )
        .remedy("build with another driver, such as --driver qemu"));
    }
    let mut draft = tokio::select! {
        draft = Draft::make(&ground.templates, request, place, log) => draft?,
        () = cancelled.cancelled() => return Err(was_cancelled()),
    };
    log.event(BuildEvent::Planned { steps: plan.steps() });
    if !plan.layers.is_empty() {
        let root = draft.work().join("root.ext4");
        run_layers(ground, &draft, recipe, plan, &root, log, cancelled).await?;
        log.step("sealing the root filesystem");
        draft.take_rootfs(&root).await?;
    }
    draft.dress(recipe);
    Ok(draft.install(&ground.templates).await?)
}

/// Makes `root` what the last layer leaves.
async fn run_layers(
    ground: &BuildGround,
    draft: &Draft,
    recipe: &Recipe,
    plan: &Plan,
    root: &Path,
    log: &dyn BuildLog,
    cancelled: &CancellationToken,
) -> Result<(), Fault> {
    let keys = plan.keys(draft.key());
    let cache = StepCache::new(ground.layout.steps(), STEP_CACHE_BYTES);
    let mut done = 0;
    if ground.reuse == StepReuse::Kept {
        for (index, key) in keys.iter().enumerate().rev() {
            if cache.take(key, root).await? {
                done = index + 1;
                break;
            }
        }
    }
    for step in plan.layers[..done].iter().flat_map(|layer| &layer.steps) {
        log.event(BuildEvent::StepCached { step: step.number, label: step.label.clone() });
    }
    if done == plan.layers.len() {
        return Ok(());
    }
    if done == 0 {
        let room = recipe.build.disk_mib.map_or(ROOM_MIB, |room| room.get());
        disk::writable_copy(&draft.rootfs(), root, room).await?;
    }
    let guests = vm::Guests::new(ground, draft, size(&recipe.build)?).await?;
    for (layer, key) in plan.layers.iter().zip(&keys).skip(done) {
        guests.run(root, layer, log, cancelled).await?;
        disk::settle(root).await?;
        if let Err(error) = cache.keep(key, root).await {
            // The next build does it again.
            tracing::warn!(%error, "what a step left is not kept");
        }
    }
    Ok(())
}

fn size(wanted: &Wanted) -> Result<Resources, Fault> {
    let vcpus = VCPUS.try_into().map_err(Fault::internal)?;
    let memory_mib = MEMORY_MIB.try_into().map_err(Fault::internal)?;
    Ok(Resources {
        vcpus: wanted.vcpus.unwrap_or(vcpus),
        memory_mib: wanted.memory_mib.unwrap_or(memory_mib),
        ..Resources::default()
    })
}

fn was_cancelled() -> Fault {
    Fault::new(Code::Cancelled, "the build was cancelled; nothing of it is left")
}
