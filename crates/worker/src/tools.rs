//! The tools of a workspace: its VMs start from a template that is made for them.
//!
//! ```text
//! template + tools + assistant ─ recipe ─► named after all of it ─ is there? ─► held for the workspace
//!                                                                      └─ no: built, once ─┘
//! ```
//! What is asked for by another workspace, too, is there already. Two that ask at once build once: the
//! name's lock is the builder's, and who has waited for it finds the template. A build that was killed is
//! begun again by its task, from the last step that was kept. The workspace holds the template from then
//! on, and its disk is made over it.

use crate::{WorkerError, build, handler::status, host::Host, preparation, run};
use aetherium_catalog::{Addition, Ground, Install};
use aetherium_image::{Holder, ImageError, InstalledTemplate, derived_name};
use aetherium_model::{
    Code, Digest, Fault, TaskId, TemplateRef,
    recipe::Recipe,
    resources::DriverKind,
    setup::{Preparation, StepReport, StepState, ToolRef},
    workspace::{Workspace, WorkspaceState},
};
use aetherium_store::RunRef;
use std::{collections::BTreeMap, process::Stdio, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How long it may take to see whether a tool is on this host.
const CHECK_DEADLINE: Duration = Duration::from_secs(30);

/// Sees to it that a workspace has its tools, before its disk is made, and notes how that went among the
/// steps of its preparation. What is done is told in the task's log.
///
/// # Errors
/// [`Code::StepFailed`] names the tool that cannot be installed, with its last lines of output;
/// [`Code::Conflict`]: the disk is there already, and was made without these tools, or this host has not
/// got them and cannot install them; [`Code::Cancelled`] after `stop`; else why there is no template.
pub(crate) async fn provide(
    host: &Arc<Host>,
    workspace: &mut Workspace,
    task: TaskId,
    stop: &CancellationToken,
) -> Result<(), Fault> {
    let Some(name) = wanted(host, workspace)? else { return Ok(()) };
    let asked = serde_json::json!([workspace.setup.tools, workspace.ai_assistant]);
    let inputs = Digest::of(asked.to_string().as_bytes());
    let last = workspace.preparation.steps.iter_mut().find(|it| it.action == preparation::TOOLS);
    if let Some(report) = last
        && report.inputs == inputs
        && matches!(report.state, StepState::Done | StepState::Unchanged)
    {
        if workspace.preparation.task_id != Some(task) {
            report.state = StepState::Unchanged;
        }
        return Ok(());
    }
    let mut report = StepReport {
        name,
        action: preparation::TOOLS.to_owned(),
        inputs,
        state: StepState::Running,
        started_at: Some(host.now()),
        finished_at: None,
    };
    host.queue.set_workspace_state(workspace.id, &WorkspaceState::Preparing, host.now()).await?;
    note(host, workspace, task, &report).await?;
    let done = template_for(host, workspace, RunRef::Task(task), stop).await;
    host.tenure.check()?;
    if host.draining.is_cancelled() && done.is_err() {
        // For this worker's next process.
        return done.map(drop);
    }
    report.finished_at = Some(host.now());
    report.state = match &done {
        Ok(template) => {
            workspace.preparation.template.clone_from(template);
            StepState::Done
        }
        Err(fault) => StepState::Failed { fault: fault.clone() },
    };
    note(host, workspace, task, &report).await?;
    done.map(drop)
}

/// What a workspace wants to be installed, in a line; nothing where it wants nothing.
fn wanted(host: &Host, workspace: &Workspace) -> Result<Option<String>, Fault> {
    let assistant = host.settings.catalog.assistant(&workspace.ai_assistant)?;
    let Install { tools, run, .. } = &assistant.install;
    let installs = host.driver()?.kind().starts_from_template();
    let own =
        (installs && !(tools.is_empty() && run.is_empty())).then(|| assistant.name.to_string());
    let names = workspace.setup.tools.iter().map(ToString::to_string);
    let names: Vec<_> = names.chain(own).collect();
    Ok((!names.is_empty()).then(|| format!("install {}", names.join(", "))))
}

/// Puts a report at its place in the workspace's row.
async fn note(
    host: &Host,
    workspace: &mut Workspace,
    task: TaskId,
    report: &StepReport,
) -> Result<(), Fault> {
    let preparation = &mut workspace.preparation;
    preparation.steps.retain(|it| it.action != preparation::TOOLS);
    preparation.steps.insert(0, report.clone());
    let noted = Preparation { task_id: Some(task), ..preparation.clone() };
    Ok(host.queue.set_preparation(workspace.id, &noted, host.now()).await?)
}

/// The template that a workspace's VMs start from, made if need be and held for it; none where nothing is
/// installed.
async fn template_for(
    host: &Arc<Host>,
    workspace: &Workspace,
    log: RunRef,
    cancelled: &CancellationToken,
) -> Result<Option<Digest>, Fault> {
    let tools = &workspace.setup.tools;
    host.settings.catalog.check_tools(tools)?;
    match host.driver()?.kind() {
        DriverKind::Firecracker | DriverKind::Qemu => {}
        DriverKind::Process => return look_on_host(host, tools).await.map(|()| None),
        DriverKind::Simulated => return Ok(None),
    }
    let base = host.templates.get(workspace.spec.pinned()).map_err(WorkerError::from)?;
    let wanted = recipes(host, workspace, &base)?;
    let Some(last) = wanted.last() else { return Ok(None) };
    let holder = Holder::Workspace(workspace.id);
    let held = host.templates.held(&holder).map_err(WorkerError::from)?;
    let there = wanted.iter().find(|it| host.templates.get(&it.place).is_ok());
    let template = match (held, there) {
        // An earlier process of this worker has come so far.
        (Some(held), _) if wanted.iter().any(|it| it.place.name == held.manifest.name) => held,
        (Some(_), _) => return Err(made_without(workspace)),
        (None, Some(there)) => made(host, workspace, there, log, cancelled).await?,
        (None, None) => {
            let looked = match wanted.as_slice() {
                [look, _] => Some(made(host, workspace, look, log, cancelled).await),
                _ => None,
            };
            match looked {
                Some(Err(fault)) if fault.code != Code::StepFailed => return Err(fault),
                Some(Ok(template)) => template,
                Some(Err(_)) | None => made(host, workspace, last, log, cancelled).await?,
            }
        }
    };
    let name = &template.manifest.name;
    tell(host, log, "tools_ready", format!("its VMs start from template {name}")).await;
    Ok(Some(template.digest().map_err(WorkerError::from)?))
}

/// A template that a workspace's VMs may start from.
struct Wanted {
    place: TemplateRef,
    recipe: Recipe,
}

/// The templates that have what a workspace wants: one where its own has the assistant already, which only
/// looks for it, and one where that must be installed. The last will do in any case; none where the
/// workspace's own is all that it needs.
fn recipes(
    host: &Host,
    workspace: &Workspace,
    base: &InstalledTemplate,
) -> Result<Vec<Wanted>, Fault> {
    let catalog = &host.settings.catalog;
    let digest = base.digest().map_err(WorkerError::from)?;
    let pinned = TemplateRef::pinned(base.manifest.name.clone(), digest);
    let image = base.manifest.image.as_ref();
    let none = BTreeMap::new();
    let ground = Ground { base: &pinned, env: image.map_or(&none, |it| &it.env) };
    let assistant = catalog.assistant(&workspace.ai_assistant)?;
    let Install { tools, run, check } = &assistant.install;
    let name = assistant.name.as_str();
    let installed = Addition { name, tools, run, check: check.as_deref() };
    let mut wanted = Vec::new();
    for more in installed.looked_for().into_iter().chain([installed]) {
        let recipe = catalog.tools().derive(ground, &workspace.setup.tools, Some(more));
        if let Some(recipe) = recipe.map_err(|it| Fault::new(Code::InvalidRequest, it))? {
            let name = derived_name(&recipe).map_err(Fault::internal)?;
            wanted.push(Wanted { place: TemplateRef::latest(name), recipe });
        }
    }
    Ok(wanted)
}

/// A template, held for a workspace; it is made first where it is not there.
async fn made(
    host: &Arc<Host>,
    workspace: &Workspace,
    wanted: &Wanted,
    log: RunRef,
    cancelled: &CancellationToken,
) -> Result<InstalledTemplate, Fault> {
    let Wanted { place, recipe } = wanted;
    let holder = Holder::Workspace(workspace.id);
    loop {
        match host.templates.hold(&holder, place) {
            Ok(template) => return Ok(template),
            Err(ImageError::NotFound { .. }) => {}
            Err(error) => return Err(WorkerError::from(error).into()),
        }
        let steps: Vec<_> = recipe.run.iter().filter_map(|it| it.name.as_deref()).collect();
        let message = format!("making template {place}: {}", steps.join(", "));
        tell(host, log, "tools_building", message).await;
        let built = build::derived(host, log, place, recipe, cancelled).await;
        // Of two that were asked for at once the second finds the name taken.
        if let Err(fault) = built
            && host.templates.get(place).is_err()
        {
            return Err(cannot_have(workspace, fault));
        }
    }
}

fn made_without(workspace: &Workspace) -> Fault {
    let detail = format!(
        "the disk of workspace {} was made over another template, and stays with it",
        workspace.name
    );
    Fault::new(Code::Conflict, detail)
        .remedy("tools and assistants are a new workspace's to choose: make one that has these")
}

fn cannot_have(workspace: &Workspace, fault: Fault) -> Fault {
    if fault.code != Code::StepFailed {
        return fault;
    }
    let detail = format!("workspace {} cannot have its tools: {}", workspace.name, fault.detail);
    Fault { detail, ..fault }.remedy(
        "read what the step printed; then ask for another version, or for a template that has it",
    )
}

/// Sees that each tool is on this host, where nothing can be installed.
async fn look_on_host(host: &Host, tools: &[ToolRef]) -> Result<(), Fault> {
    for asked in tools {
        let Some(tool) = host.settings.catalog.tools().get(&asked.name) else { continue };
        let mut command = tokio::process::Command::new("/bin/sh");
        command.args(["-c", &tool.check]).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let found = tokio::time::timeout(CHECK_DEADLINE, command.status()).await;
        if !matches!(&found, Ok(Ok(status)) if status.success()) {
            let detail = format!(
                "tool {} is not on this host ({} fails), and the process driver installs nothing",
                tool.name, tool.check
            );
            return Err(Fault::new(Code::Conflict, detail)
                .remedy("install it on the host, or use a worker with another driver"));
        }
    }
    Ok(())
}

async fn tell(host: &Arc<Host>, log: RunRef, stage: &str, message: String) {
    run::append(host, log, vec![status(stage, message)]).await;
}
