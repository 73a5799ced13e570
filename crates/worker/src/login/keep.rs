//! Logins in the VMs of a project: given to each before its prompts, and taken back when one has renewed them.

use super::{
    bundle::{Bundle, Found},
    home::Home,
};
use crate::{host::Host, secrets, vm::VmHandle};
use aetherium_catalog::{AssistantDefinition, HomePath};
use aetherium_model::{
    Code, Fault, VmId, assistant::AssistantName, run::Command, workspace::Workspace,
};
use aetherium_secrets::SecretValue;
use aetherium_store::{Before, Generation, RunRef, StoredCredentials};
use std::{sync::Arc, time::Duration};

/// How often a renewal is tried that others came before.
const TRIES: u32 = 5;
/// What taking a renewal back may take.
const REFRESH_DEADLINE: Duration = Duration::from_secs(60);

/// A login that a prompt has, to be looked at again after it.
pub(crate) struct LoggedIn {
    assistant: AssistantName,
    files: Vec<HomePath>,
    home: Home,
}

/// Credentials as they are stored now.
struct Current {
    bundle: Bundle,
    generation: Generation,
}

/// Gives a VM what its workspace's assistant is logged in with, before a prompt's command runs there; nothing
/// where nobody has logged in. What the VM has that is newer is stored instead.
///
/// # Errors
/// It cannot be read or given. The command must not run then.
pub(crate) async fn restore(
    host: &Arc<Host>,
    vm: &VmHandle,
    run: RunRef,
    workspace: &Workspace,
    command: &Command,
) -> Result<Option<LoggedIn>, Fault> {
    let Some((assistant, files)) = files_of(host, &workspace.ai_assistant) else { return Ok(None) };
    let agent = vm.agent().await?;
    let Some(current) = read(host, &assistant, vm.id(), Some(run)).await? else { return Ok(None) };
    secrets::note_given(host, vm.id())?;
    let home = Home::of(&agent, &vm.complete(command)).await?;
    let found = home.read(&files).await?;
    let bundle = store_newer(host, vm.id(), &assistant, current, &found).await?;
    vm.given().add(bundle.tokens());
    for (path, content) in bundle.lacking_in(&found) {
        home.write(&path, &content).await?;
    }
    Ok(Some(LoggedIn { assistant, files, home }))
}

/// Stores what a prompt's assistant has renewed. The prompt's own end does not depend on it.
pub(crate) async fn refresh(host: &Arc<Host>, vm: &VmHandle, run: RunRef, login: Option<LoggedIn>) {
    let Some(login) = login else { return };
    if vm.state().is_terminal() {
        // Its disk has what there is; the workspace's next prompt stores it.
        return;
    }
    let renewal = async {
        let found = login.home.read(&login.files).await?;
        let current = read_quietly(host, &login.assistant, vm.id()).await?;
        let Some(current) = current else { return Ok(()) };
        let bundle = store_newer(host, vm.id(), &login.assistant, current, &found).await?;
        vm.given().add(bundle.tokens());
        Ok::<_, Fault>(())
    };
    let done = tokio::time::timeout(REFRESH_DEADLINE, renewal).await;
    let assistant = &login.assistant;
    match done {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%run, %assistant, %error, "a renewed login is on its workspace's disk alone");
        }
        Err(_) => tracing::warn!(%run, %assistant, "a login could not be looked at in time"),
    }
}

/// What is not to be shown of what a VM was given before this process began.
///
/// # Errors
/// `secret_unreadable`.
pub(crate) async fn tokens_again(
    host: &Arc<Host>,
    vm: VmId,
    run: RunRef,
) -> Result<Vec<SecretValue>, Fault> {
    if !secrets::were_given(host, vm) {
        return Ok(Vec::new());
    }
    let Some(workspace) = host.queue.store().vm(vm).await?.workspace_id else {
        return Ok(Vec::new());
    };
    let assistant = host.queue.store().workspace(workspace).await?.ai_assistant;
    let Some((assistant, _)) = files_of(host, &assistant) else { return Ok(Vec::new()) };
    let current = read(host, &assistant, vm, Some(run)).await?;
    let tokens = current.map(|current| current.bundle.tokens()).unwrap_or_default();
    if let Ok(handle) = host.vms.get(vm) {
        handle.given().add(tokens.clone());
    }
    Ok(tokens)
}

/// Stores what somebody's login has left in a VM, whatever was stored before.
pub(super) async fn store(
    host: &Arc<Host>,
    vm: &VmHandle,
    assistant: &AssistantName,
    found: &Found,
) -> Result<(), Fault> {
    let before = match read_quietly(host, assistant, vm.id()).await {
        Ok(before) => before,
        // What cannot be read is replaced.
        Err(fault) if fault.code == Code::SecretUnreadable => None,
        Err(fault) => return Err(fault),
    };
    let bundle = Bundle::of_login(found, before.as_ref().map(|it| &it.bundle));
    vm.given().add(bundle.tokens());
    let value = bundle.encode().map_err(Fault::internal)?;
    let (queue, now) = (&host.queue, host.now());
    queue.store().put_credentials(assistant, vm.id(), &value, Before::Any, now).await?;
    Ok(())
}

/// Whether what a VM has is what is stored, or was: so nobody has just logged in.
pub(super) async fn is_stored(
    host: &Arc<Host>,
    vm: &VmHandle,
    assistant: &AssistantName,
    found: &Found,
) -> Result<bool, Fault> {
    match read_quietly(host, assistant, vm.id()).await {
        Ok(current) => Ok(current.is_some_and(|it| it.bundle.knows(found))),
        Err(fault) if fault.code == Code::SecretUnreadable => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// The files of an assistant's login, if it has any.
fn files_of(host: &Host, name: &AssistantName) -> Option<(AssistantName, Vec<HomePath>)> {
    let definition: &AssistantDefinition = host.settings.catalog.assistant(name).ok()?;
    let files = definition.login.as_ref()?.credential_files.clone();
    (!files.is_empty()).then(|| (name.clone(), files))
}

/// Stores what is newer in `found`, however often others do the same meanwhile, and returns what is stored
/// then.
async fn store_newer(
    host: &Arc<Host>,
    vm: VmId,
    assistant: &AssistantName,
    mut current: Current,
    found: &Found,
) -> Result<Bundle, Fault> {
    for _ in 0..TRIES {
        let Some(renewed) = current.bundle.renewed_by(found) else { return Ok(current.bundle) };
        let value = renewed.encode().map_err(Fault::internal)?;
        let (before, now) = (Before::These(current.generation), host.now());
        let put = host.queue.store().put_credentials(assistant, vm, &value, before, now).await?;
        if put.is_some() {
            tracing::info!(%assistant, %vm, "a renewed login is stored");
            return Ok(renewed);
        }
        match read_quietly(host, assistant, vm).await? {
            Some(now) => current = now,
            // Somebody has logged out meanwhile.
            None => return Ok(renewed),
        }
    }
    let detail = format!("others have renewed the login of {assistant} {TRIES} times meanwhile");
    Err(Fault::new(Code::Busy, detail).remedy("send it again"))
}

/// Credentials for a VM, which the event log tells of.
async fn read(
    host: &Arc<Host>,
    assistant: &AssistantName,
    vm: VmId,
    run: Option<RunRef>,
) -> Result<Option<Current>, Fault> {
    let read = host.queue.store().read_credentials(assistant, vm, run, host.now()).await?;
    read.map(decode).transpose()
}

/// Credentials to be compared with those of a VM that has them.
async fn read_quietly(
    host: &Arc<Host>,
    assistant: &AssistantName,
    vm: VmId,
) -> Result<Option<Current>, Fault> {
    host.queue.store().compare_credentials(assistant, vm).await?.map(decode).transpose()
}

fn decode(stored: StoredCredentials) -> Result<Current, Fault> {
    let bundle = Bundle::decode(&stored.value).map_err(|error| {
        Fault::new(Code::SecretUnreadable, error.to_string()).remedy("log in again")
    })?;
    Ok(Current { bundle, generation: stored.generation })
}
