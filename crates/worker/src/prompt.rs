//! What a prompt's task does: the workspace's VM, and in it its assistant's command with what the
//! workspace and the prompt say it is to have.

use crate::{
    assistant::Turn,
    handler::Handlers,
    host::Host,
    preparation::{self, Guest},
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
use std::sync::Arc;

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
        let turn = match Turn::of(host, &workspace, &prompt) {
            Ok(turn) => turn,
            Err(fault) => return self.end(run, RunState::Failed { fault }).await,
        };
        let secrets = turn.secrets().await?;
        if task.state == TaskState::Started {
            let going_on = self.go_on(run, prompt.vm_id, &secrets, Some(&turn), context);
            return Box::pin(going_on).await;
        }
        if let Some(fault) = not_prepared(&workspace) {
            return self.end(run, RunState::Failed { fault }).await;
        }
        let ready = async {
            let (vm, hold) = workspace::ensure_vm(host, workspace_id, Some(run)).await?;
            let command = command(host, &vm, &turn, secrets).await?;
            Ok::<_, Fault>((vm, hold, command))
        };
        let ready = tokio::select! {
            ready = Box::pin(ready) => ready,
            () = context.cancelled().cancelled() => return self.end(run, RunState::Cancelled).await,
        };
        let (vm, _hold, command) = match ready {
            Ok(ready) => ready,
            Err(fault) if fault.code == Code::WorkerLost => return Err(fault),
            Err(fault) => return self.end(run, RunState::Failed { fault }).await,
        };
        match Box::pin(self.run_in(task, run, &vm, &command, Some(&turn), context)).await? {
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
    turn: &Turn<'_>,
    secrets: SecretUses,
) -> Result<Command, Fault> {
    let (workspace, prompt) = (turn.workspace, turn.prompt);
    let mut command = turn.command();
    command.env.extend(preparation::variables(&preparation::environment(workspace)));
    command.env.extend(preparation::variables(&prompt.options.env));
    command.secrets = secrets;
    command.timeout_ms = prompt.timeout_ms;
    command.cwd = prompt.options.working_directory.as_ref().map(|it| it.as_str().to_owned());
    let user = preparation::user(workspace).or(turn.definition.user.as_ref());
    command.user = None;
    let setup = &workspace.setup;
    let has_place = command.cwd.is_some();
    let asks_where = setup.working_directory.is_some() || setup.repository.is_some();
    if user.is_some() || (asks_where && !has_place) {
        let guest = Guest { host, workspace, vm, agent: vm.agent().await? };
        let person = guest.person(user).await?;
        if !has_place {
            let place = guest.place_of_prompts(&person).await?;
            command.cwd = place.map(|it| it.display().to_string());
        }
        command.user = person.user;
    }
    Ok(command)
}
