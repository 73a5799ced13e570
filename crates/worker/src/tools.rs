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

use crate::{WorkerError, build, handler::status, host::Host, run};
use aetherium_catalog::{Addition, Ground};
use aetherium_image::{Holder, ImageError, InstalledTemplate, derived_name};
use aetherium_model::{
    Code, Digest, Fault, Name, TemplateRef, recipe::Recipe, resources::DriverKind, setup::ToolRef,
    workspace::Workspace,
};
use aetherium_store::RunRef;
use std::{collections::BTreeMap, process::Stdio, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How long it may take to see whether a tool is on this host.
const CHECK_DEADLINE: Duration = Duration::from_secs(30);

/// The template that a workspace's VMs start from, made if need be and held for it; none where it has no
/// tools, nor its assistant anything to install, and so starts from its own. What is done is told in `log`.
///
/// # Errors
/// [`Code::StepFailed`] names the tool that cannot be installed, with its last lines of output;
/// [`Code::Cancelled`] after `cancelled`; else why there is no template.
pub(crate) async fn template_for(
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
    let holder = Holder::Workspace(workspace.id);
    if host.templates.held(&holder).map_err(WorkerError::from)?.is_some() {
        // Its disk lies over this one.
        return Ok(workspace.preparation.template.clone());
    }
    let base = host.templates.get(workspace.spec.pinned()).map_err(WorkerError::from)?;
    let Some(recipe) = recipe(host, workspace, &base)? else { return Ok(None) };
    let name = derived_name(&recipe).map_err(Fault::internal)?;
    let place = TemplateRef::latest(name.clone());
    let template = loop {
        match host.templates.hold(&holder, &place) {
            Ok(template) => break template,
            Err(ImageError::NotFound { .. }) => {}
            Err(error) => return Err(WorkerError::from(error).into()),
        }
        tell(host, log, "tools_building", format!("making template {name}: {}", list(&recipe)))
            .await;
        let built = build::derived(host, log, &place, &recipe, cancelled).await;
        // Of two that were asked for at once the second finds the name taken.
        let is_there = host.templates.get(&place).is_ok();
        if let Err(fault) = built
            && !is_there
        {
            return Err(cannot_have(&workspace.name, fault));
        }
    };
    tell(host, log, "tools_ready", format!("its VMs start from template {name}")).await;
    Ok(Some(template.digest().map_err(WorkerError::from)?))
}

/// How the workspace's template is made; none where its own is all that it needs.
fn recipe(
    host: &Host,
    workspace: &Workspace,
    base: &InstalledTemplate,
) -> Result<Option<Recipe>, Fault> {
    let catalog = &host.settings.catalog;
    let digest = base.digest().map_err(WorkerError::from)?;
    let pinned = TemplateRef::pinned(base.manifest.name.clone(), digest);
    let image = base.manifest.image.as_ref();
    let none = BTreeMap::new();
    let ground = Ground { base: &pinned, env: image.map_or(&none, |it| &it.env) };
    let assistant = catalog.assistant(&workspace.ai_assistant)?;
    let aetherium_catalog::Install { tools, run, check } = &assistant.install;
    let more = Addition { name: assistant.name.as_str(), tools, run, check };
    let derived = catalog.tools().derive(ground, &workspace.setup.tools, Some(more));
    derived.map_err(|problem| Fault::new(Code::InvalidRequest, problem))
}

/// What a recipe's steps are called.
fn list(recipe: &Recipe) -> String {
    let names: Vec<_> = recipe.run.iter().filter_map(|it| it.name.as_deref()).collect();
    names.join(", ")
}

fn cannot_have(workspace: &Name, fault: Fault) -> Fault {
    if fault.code == Code::StepFailed {
        let detail = format!("workspace {workspace} cannot have its tools: {}", fault.detail);
        return Fault { detail, ..fault }.remedy(
            "read what the step printed; then make the workspace with another version, or from a \
             template that has the tool",
        );
    }
    fault
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
