//! What a prompt's task does: the workspace's VM, and in it its assistant's command with what the
//! workspace and the prompt say it is to have.

use crate::{
    assistant::Turn,
    handler::Handlers,
    host::{self, Host},
    login, mcp,
    preparation::{self, Guest},
    room::Asker,
    vm::VmHandle,
    workspace,
};
use aetherium_model::{
    Code, Fault, PromptId, WorkspaceId,
    run::{Command, RunState},
    secret::SecretUses,
    task::{Task, TaskState},
    workspace::{Workspace, WorkspaceState},
};
use aetherium_queue::{Outcome, TaskContext};
use aetherium_store::RunRef;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

impl Handlers {
    pub(crate) async fn prompt_execute(
        &self,
        task: &Task,
        workspace_id: WorkspaceId,
        id: PromptId,
        context: &TaskContext,
    ) -> Result<Outcome, Fault> {
        let host = &self.host;
        let run = RunRef::Prompt(id);
        let prompt = host.queue.store().prompt(id).await?;
        let workspace = host.queue.store().workspace(workspace_id).await?;
        let mut turn = match Turn::of(host, &workspace, &prompt) {
            Ok(turn) => turn,
            Err(fault) => return self.end(run, RunState::Failed { fault }).await,
        };
        let secrets = turn.secrets().await?;
        if task.state == TaskState::Started {
            let going_on = self.go_on(run, prompt.vm_id, &secrets, Some(&turn), context);
            let gone_on = Box::pin(going_on).await;
            if let Some(vm) = prompt.vm_id.and_then(|vm| host.vms.get(vm).ok()) {
                mcp::forget(&vm, run, &workspace.setup.mcp_servers).await;
            }
            return gone_on;
        }
        if let Some(fault) = not_prepared(&workspace) {
            return self.end(run, RunState::Failed { fault }).await;
        }
        let ready = async {
            let asker = Some(Asker { log: run, context });
            let (vm, hold) = workspace::ensure_vm(host, workspace_id, asker).await?;
            vm.agent().await?;
            let command = command(host, &vm, &mut turn, secrets).await?;
            let logged_in = login::restore(host, &vm, run, &workspace, &command).await?;
            Ok::<_, Fault>((vm, hold, command, logged_in))
        };
        let ready = tokio::select! {
            ready = Box::pin(ready) => ready,
            () = context.cancelled().cancelled() => return self.end(run, RunState::Cancelled).await,
            () = context.shutting_down().cancelled() => Err(host::stopping()),
        };
        let (vm, _hold, command, logged_in) = match ready {
            Ok(ready) => ready,
            // Nothing has run: it is for this worker's next process.
            Err(fault) if fault.code == Code::WorkerLost || host.draining.is_cancelled() => {
                return Ok(Outcome::Retry { after: Duration::ZERO, fault });
            }
            Err(fault) => return self.end(run, RunState::Failed { fault }).await,
        };
        let end = Box::pin(self.run_in(task, run, &vm, &command, Some(&turn), context)).await;
        mcp::forget(&vm, run, &workspace.setup.mcp_servers).await;
        login::refresh(host, &vm, run, logged_in).await;
        match end? {
            Some(end) => self.end(run, end).await,
            None => Ok(Outcome::Settled),
        }
    }
}

/// Why nothing is run in a workspace, where its preparation has not ended well. Its tasks come one after
/// the other, so it is not on its way any more.
fn not_prepared(workspace: &Workspace) -> Option<Fault> {
    let (code, why, evidence) = match &workspace.state {
        WorkspaceState::Ready | WorkspaceState::Deleting => return None,
        WorkspaceState::Failed { fault } => {
            (fault.code, fault.detail.as_str(), fault.evidence.clone())
        }
        WorkspaceState::Creating | WorkspaceState::Preparing => {
            (Code::Conflict, "its preparation has not ended", Vec::new())
        }
    };
    let detail =
        format!("workspace {} is not prepared, and nothing was run: {why}", workspace.name);
    let remedy = "correct what failed, prepare the workspace again (`aetherium ws retry`), and send the prompt again";
    Some(Fault::new(code, detail).remedy(remedy).evidence(evidence))
}

/// The command of a prompt.
async fn command(
    host: &Arc<Host>,
    vm: &VmHandle,
    turn: &mut Turn<'_>,
    secrets: SecretUses,
) -> Result<Command, Fault> {
    let (workspace, prompt) = (turn.workspace, turn.prompt);
    let place = prompt.options.working_directory.as_ref().map(|it| it.as_str().to_owned());
    // Its arguments come last: they may name a file that is written for its user.
    let frame = Command {
        env: preparation::variables(&prompt.options.env),
        secrets,
        timeout_ms: prompt.timeout_ms,
        cwd: place,
        ..Command::new(Vec::<String>::new())
    };
    let frame = in_workspace(host, vm, workspace, frame).await?;
    let servers = &workspace.setup.mcp_servers;
    let mcp_config = if servers.is_empty() {
        None
    } else {
        let (run, user) = (RunRef::Prompt(prompt.id), frame.user.as_deref());
        let asked = mcp::Asked { servers, env: &frame.env, secrets: &frame.secrets, user };
        mcp::config(host, vm, &vm.agent().await?, run, turn.definition, &asked).await?
    };
    turn.mcp_config = mcp_config;
    let command = turn.command();
    Ok(Command { env: both(command.env, frame.env), argv: command.argv, ..frame })
}

/// A command as it is run in a workspace: with its variables, and, where it does not say otherwise, as its
/// user and in its place.
pub(crate) async fn in_workspace(
    host: &Arc<Host>,
    vm: &VmHandle,
    workspace: &Workspace,
    command: Command,
) -> Result<Command, Fault> {
    let env =
        both(preparation::variables(&preparation::environment(&workspace.setup)), command.env);
    let mut command = Command { env, ..command };
    let setup = &workspace.setup;
    let asks_who = command.user.is_none() && preparation::user(host, workspace)?.is_some();
    let asks_where =
        command.cwd.is_none() && (setup.working_directory.is_some() || setup.repository.is_some());
    if asks_who || asks_where {
        let guest = Guest { host, workspace, vm, agent: vm.agent().await? };
        let person = guest.person(preparation::user(host, workspace)?).await?;
        if asks_where {
            let place = guest.place_of_prompts(&person).await?;
            command.cwd = place.map(|it| it.display().to_string());
        }
        command.user = command.user.or(person.user);
    }
    Ok(command)
}

/// The variables of both, of which `over` go before.
fn both(
    mut variables: BTreeMap<String, String>,
    over: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    variables.extend(over);
    variables
}
