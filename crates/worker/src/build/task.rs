//! Builds that are asked for over the API: a task each, with nothing taken from this host's disk.

use super::{BuildGround, StepReuse, build_template, log::TaskLog, place};
use crate::{WorkerError, heartbeat, host::Host};
use aetherium_image::{
    BlobCache, BuildRequest, ImageOrigin, InstalledTemplate, KernelSource, RegistryAccess,
    RootfsSource,
    recipe::{Plan, entries},
};
use aetherium_model::{
    Code, Fault, Name, TaskId, TemplateRef,
    recipe::{Base, Recipe, Sizes},
    resources::Resources,
    tuning::Tuning,
};
use aetherium_queue::{Outcome, TaskContext};
use aetherium_store::RunRef;
use futures::future::BoxFuture;
use std::{path::Path, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The template whose kernel others get that have none of their own.
const KERNEL_OF: &str = "default";
/// Downloaded layers that are kept for the next build, in bytes.
const BLOB_CACHE_BYTES: u64 = 10 << 30;

/// Removes what killed builds left; a worker does so before it takes work.
pub(crate) async fn sweep(host: &Host) -> Result<(), WorkerError> {
    match &host.driver {
        Ok(chosen) => place::sweep(&host.layout.builds(), &chosen.vmm).await,
        // Nothing could have been started without one.
        Err(_) => Ok(()),
    }
}

/// Builds what a task asks for. A worker that is told to stop gives the task back.
pub(crate) async fn from_task(
    host: &Arc<Host>,
    task: TaskId,
    place: TemplateRef,
    recipe: &Recipe,
    replace: bool,
    context: &TaskContext,
) -> Outcome {
    let cancelled = CancellationToken::new();
    let log = TaskLog::new(host, RunRef::Task(task), &place);
    let mut built = built(host, &log, &place, recipe, replace, &cancelled);
    let ended = tokio::select! {
        built = &mut built => Some(built),
        () = context.cancelled().cancelled() => None,
        () = host.draining.cancelled() => None,
    };
    let Some(ended) = ended else {
        cancelled.cancel();
        // In order: its VM is gone afterwards.
        let ended = built.await;
        return match ended {
            Err(fault) if host.draining.is_cancelled() => {
                Outcome::Retry { after: Duration::ZERO, fault }
            }
            Err(_) => Outcome::Cancelled,
            Ok(_) => Outcome::Done,
        };
    };
    heartbeat::beat(host).await;
    ended.map_or_else(Outcome::Failed, |_| Outcome::Done)
}

/// Builds a template that is not there yet, for somebody's own `log`. Whoever builds it at the same time
/// is waited for.
pub(crate) async fn derived(
    host: &Arc<Host>,
    log: RunRef,
    place: &TemplateRef,
    recipe: &Recipe,
    cancelled: &CancellationToken,
) -> Result<InstalledTemplate, Fault> {
    let log = TaskLog::new(host, log, place);
    built(host, &log, place, recipe, false, cancelled).await
}

/// The build itself. Boxed: it is large, and who waits for it also waits for other things.
fn built<'a>(
    host: &'a Arc<Host>,
    log: &'a TaskLog<'a>,
    place: &'a TemplateRef,
    recipe: &'a Recipe,
    replace: bool,
    cancelled: &'a CancellationToken,
) -> BoxFuture<'a, Result<InstalledTemplate, Fault>> {
    Box::pin(log.beside(async move {
        let request = request(host, place.name.clone(), recipe, replace)?;
        let plan = plan(recipe)?;
        let ground = BuildGround {
            layout: host.layout.clone(),
            templates: host.templates.clone(),
            driver: Arc::clone(host.driver()?),
            vsock: host.settings.vsock,
            slots: host.settings.slots,
            boot_deadline: host.settings.boot_deadline,
            reuse: StepReuse::Kept,
        };
        build_template(&ground, &request, place, recipe, &plan, log, cancelled).await
    }))
}

fn request(host: &Host, name: Name, recipe: &Recipe, replace: bool) -> Result<BuildRequest, Fault> {
    if let Some((field, problem)) = recipe.taken_from_host().into_iter().next() {
        return Err(Fault::new(Code::InvalidRequest, format!("{field} {problem}")));
    }
    let agent = host.settings.agent_binary.clone().ok_or_else(|| {
        Fault::new(Code::Unavailable, "this worker has no agent's binary to put into templates")
            .remedy("put fc-agent beside the aetherium binary, or name it with --agent")
    })?;
    let (mut tuning, mut snapshots) = (Tuning::default(), None);
    let (kernel, rootfs, defaults) = match &recipe.base {
        Base::Template(base) => {
            let base = host.templates.get(base).map_err(WorkerError::from)?;
            let defaults = base.manifest.defaults;
            (tuning, snapshots) = (base.manifest.tuning, base.manifest.snapshots);
            let kernel = KernelSource::Template(Box::new(base.clone()));
            (kernel, RootfsSource::Template(Box::new(base)), defaults)
        }
        Base::Image(origin) => {
            let origin: ImageOrigin = origin.parse().map_err(|error| {
                Fault::new(Code::InvalidRequest, format!("base.image: {error}"))
            })?;
            let cache = BlobCache::new(host.layout.root().join("cache/blobs"), BLOB_CACHE_BYTES);
            let registry = RegistryAccess::as_logged_in(cache, Vec::new()).for_what_others_name();
            let registry = Box::new(registry);
            (kernel(host)?, RootfsSource::Image { origin, registry }, Resources::default())
        }
        Base::Packages(packages) => {
            let include = packages.iter().map(ToString::to_string).collect();
            (kernel(host)?, RootfsSource::Packages { include }, Resources::default())
        }
    };
    let Sizes { vcpus, memory_mib, disk_mib } = recipe.resources;
    let defaults = Resources {
        vcpus: vcpus.unwrap_or(defaults.vcpus),
        memory_mib: memory_mib.unwrap_or(defaults.memory_mib),
        disk_mib: disk_mib.unwrap_or(defaults.disk_mib),
    };
    Ok(BuildRequest {
        name,
        kernel,
        rootfs,
        agent,
        defaults,
        kernel_args: Vec::new(),
        cpu_template: None,
        transport: None,
        snapshots,
        tuning,
        replace,
    })
}

/// That of the template `default`, where there is one; else the distribution's.
fn kernel(host: &Host) -> Result<KernelSource, Fault> {
    let name: Name = KERNEL_OF.parse().map_err(Fault::internal)?;
    Ok(match host.templates.get(&name) {
        Ok(template) => KernelSource::Template(Box::new(template)),
        Err(_) => KernelSource::DistributionPackage { cache: host.layout.root().join("cache") },
    })
}

fn plan(recipe: &Recipe) -> Result<Plan, Fault> {
    // Only contents are left, which need no directory.
    let copied: Result<Vec<_>, _> =
        recipe.files.iter().map(|copy| entries(copy, Path::new("/"))).collect();
    Ok(Plan::new(recipe, copied?))
}
