//! What each type of task does. A handler may be called again for a task that an earlier process of
//! this worker did not finish; every step here is either repeatable or behind the start mark. A task
//! that comes with its start mark is gone on with, and nothing is started for it.

use crate::{
    assistant::{Reader, Turn},
    build,
    host::Host,
    preparation,
    rejoin::{self, Followed},
    run, secrets, vm, workspace,
};
use aetherium_model::{
    Code, ExecutionId, Fault, VmId, WorkspaceId,
    output::EventBody,
    run::{Command, RunState},
    secret::SecretUses,
    task::{Task, TaskKind, TaskState},
    vm::VmState,
    workspace::WorkspaceState,
};
use aetherium_queue::{Handler, Outcome, TaskContext};
use aetherium_secrets::Masks;
use aetherium_store::{Finish, RunRef, Start, StoreError};
use aetherium_telemetry::within;
use async_trait::async_trait;
use std::{sync::Arc, time::Duration};
use tracing::{Span, field::Empty};

/// How often the end of a run is tried to be written, and the pause between. A lease is renewed meanwhile.
const END_TRIES: u32 = 20;
const END_PAUSE: Duration = Duration::from_millis(500);

/// The worker's task handlers.
pub(crate) struct Handlers {
    pub(crate) host: Arc<Host>,
}

#[async_trait]
impl Handler for Handlers {
    async fn handle(&self, task: Task, context: TaskContext) -> Outcome {
        if let Err(fault) = self.host.tenure.check() {
            return Outcome::Retry { after: Duration::ZERO, fault };
        }
        let begun = self.host.metrics.begin_task(&task, self.host.now());
        let (span, trace) = (span(&self.host, &task), task.trace);
        let outcome = within(span, trace, Box::pin(self.perform(task, context))).await;
        begun.ended(&outcome);
        outcome
    }

    async fn abandoned(&self, task: &Task, fault: &Fault) {
        let settled = match &task.kind {
            TaskKind::VmCreate { vm_id } => {
                workspace::end_vm(&self.host, *vm_id, fault.clone()).await
            }
            TaskKind::WorkspaceCreate { workspace_id }
            | TaskKind::WorkspacePrepare { workspace_id } => {
                let state = WorkspaceState::Failed { fault: fault.clone() };
                let now = self.host.now();
                let written = self.host.queue.set_workspace_state(*workspace_id, &state, now).await;
                written.map_err(Fault::from)
            }
            _ => Ok(()),
        };
        if let Err(error) = settled {
            tracing::error!(task = %task.id, %error, "an abandoned task left something undone");
        }
    }
}

impl Handlers {
    async fn perform(&self, task: Task, context: TaskContext) -> Outcome {
        let done = match task.kind.clone() {
            TaskKind::VmCreate { vm_id } => self.vm_create(vm_id, &context).await,
            TaskKind::VmDelete { vm_id } => self.vm_delete(vm_id).await,
            TaskKind::VmExecute { vm_id, execution_id } => {
                Box::pin(self.vm_execute(&task, vm_id, execution_id, &context)).await
            }
            TaskKind::WorkspaceCreate { workspace_id } => {
                self.workspace_create(workspace_id, &task, &context).await
            }
            TaskKind::WorkspacePrepare { workspace_id } => {
                preparation::from_task(&self.host, workspace_id, &task, &context).await
            }
            TaskKind::WorkspaceDelete { workspace_id } => self.workspace_delete(workspace_id).await,
            TaskKind::PromptExecute { workspace_id, prompt_id } => {
                Box::pin(self.prompt_execute(&task, workspace_id, prompt_id, &context)).await
            }
            TaskKind::TemplateBuild { template, recipe, replace } => {
                Ok(build::from_task(&self.host, task.id, template, &recipe, replace, &context)
                    .await)
            }
        };
        done.unwrap_or_else(|fault| match fault.code {
            // It is for this worker's next process, unless the guest may have run something.
            Code::WorkerLost => Outcome::Retry { after: Duration::ZERO, fault },
            _ => Outcome::Failed(fault),
        })
    }

    async fn vm_create(&self, id: VmId, context: &TaskContext) -> Result<Outcome, Fault> {
        let host = &self.host;
        let handle = match host.vms.get(id) {
            Ok(handle) => handle,
            Err(_) => {
                let row = host.queue.store().vm(id).await?;
                match &row.state {
                    VmState::Creating => vm::spawn(host, row, None, vm::Origin::Fresh),
                    state => {
                        let why = state.termination().cloned();
                        return Err(why.unwrap_or_else(|| {
                            Fault::internal(format!("{id} is {} without an actor", state.as_str()))
                        }));
                    }
                }
            }
        };
        tokio::select! {
            up = handle.agent() => up.map(|_| Outcome::Done),
            () = context.cancelled().cancelled() => {
                handle.stop(Fault::new(Code::Cancelled, "its creation was cancelled")).await;
                Err(Fault::new(Code::Cancelled, format!("the creation of {id} was cancelled")))
            }
        }
    }

    async fn vm_delete(&self, id: VmId) -> Result<Outcome, Fault> {
        let reason = Fault::new(Code::Requested, "its deletion was requested");
        workspace::end_vm(&self.host, id, reason).await?;
        Ok(Outcome::Done)
    }

    async fn workspace_create(
        &self,
        id: WorkspaceId,
        task: &Task,
        context: &TaskContext,
    ) -> Result<Outcome, Fault> {
        let workspace = self.host.queue.store().workspace(id).await?;
        match workspace.state {
            WorkspaceState::Creating | WorkspaceState::Preparing => {
                preparation::from_task(&self.host, id, task, context).await
            }
            _ => Ok(Outcome::Done),
        }
    }

    async fn workspace_delete(&self, id: WorkspaceId) -> Result<Outcome, Fault> {
        workspace::remove(&self.host, id).await?;
        Ok(Outcome::Done)
    }

    async fn vm_execute(
        &self,
        task: &Task,
        vm_id: VmId,
        id: ExecutionId,
        context: &TaskContext,
    ) -> Result<Outcome, Fault> {
        let host = &self.host;
        let run = RunRef::Execution(id);
        let command = host.queue.store().execution(id).await?.command;
        if task.state == TaskState::Started {
            return Box::pin(self.go_on(run, Some(vm_id), &command.secrets, None, context)).await;
        }
        let held = host.vms.get(vm_id).and_then(|vm| vm.hold().map(|hold| (vm, hold)));
        let (vm, _hold) = match held {
            Ok(held) => held,
            Err(fault) => return self.end(run, RunState::Failed { fault }).await,
        };
        match Box::pin(self.run_in(task, run, &vm, &command, None, context)).await? {
            Some(end) => self.end(run, end).await,
            None => Ok(Outcome::Settled),
        }
    }

    /// Waits for the VM, writes the start mark and runs the command with its output logged. Returns
    /// how it ended, or nothing where the run is no longer this task's to end.
    pub(crate) async fn run_in(
        &self,
        task: &Task,
        run: RunRef,
        vm: &vm::VmHandle,
        command: &Command,
        turn: Option<&Turn<'_>>,
        context: &TaskContext,
    ) -> Result<Option<RunState>, Fault> {
        let host = &self.host;
        Span::current().record("vm", tracing::field::display(vm.id()));
        let agent = tokio::select! {
            agent = vm.agent() => match agent {
                Ok(agent) => agent,
                Err(fault) if fault.code == Code::WorkerLost => return Err(fault),
                Err(fault) => return Ok(Some(RunState::Failed { fault })),
            },
            () = context.cancelled().cancelled() => return Ok(Some(RunState::Cancelled)),
        };
        let command = run::traced(vm.complete(command));
        let delivered = match secrets::deliver(host, vm.id(), &agent, run, &command).await {
            Ok(delivered) => delivered,
            Err(fault) => return Ok(Some(RunState::Failed { fault })),
        };
        let uses = command.secrets.clone();
        let command = match turn {
            None => command,
            Some(turn) => match turn.complete(vm, &agent, run, command).await {
                Ok(command) => command,
                Err(fault) => {
                    secrets::forget(vm, run, &uses).await;
                    return Ok(Some(RunState::Failed { fault }));
                }
            },
        };
        host.tenure.check()?;
        match host.queue.start_run(run, Some(task), vm.id(), host.now()).await? {
            Start::Marked => {}
            Start::Cancelled => {
                secrets::forget(vm, run, &uses).await;
                return Ok(Some(RunState::Cancelled));
            }
            Start::NotOurs => return Ok(None),
        }
        // The mark may have taken its time. What it says then is that nothing is known to have run.
        host.tenure.check()?;
        run::append(host, run, vec![status("running", format!("running in {}", vm.id()))]).await;
        let end = match rejoin::start(vm, &agent, run, &command, &delivered).await {
            Ok(process) => {
                let reader = turn.map_or_else(Reader::none, Turn::reader);
                let masks = &delivered.masks;
                Box::pin(self.logged(run, process, masks, turn, reader, context)).await
            }
            Err(error) => run::not_run(&error),
        };
        secrets::forget(vm, run, &uses).await;
        Ok(Some(end))
    }

    /// Follows a run's command to its end, and keeps the conversation that its assistant was in.
    async fn logged(
        &self,
        run: RunRef,
        process: Followed,
        masks: &Masks,
        turn: Option<&Turn<'_>>,
        mut reader: Reader,
        context: &TaskContext,
    ) -> RunState {
        let cancelled = context.cancelled();
        let end = run::log_to_end(&self.host, run, process, masks, &mut reader, cancelled).await;
        if let Some(turn) = turn {
            turn.keep_session(&reader).await;
        }
        end
    }

    /// Goes on with a run that an earlier process of this worker had started in `vm`, or says that its
    /// end is unknown.
    pub(crate) async fn go_on(
        &self,
        run: RunRef,
        vm: Option<VmId>,
        uses: &SecretUses,
        turn: Option<&Turn<'_>>,
        context: &TaskContext,
    ) -> Result<Outcome, Fault> {
        let host = &self.host;
        let found = async {
            let vm = vm.ok_or_else(|| Fault::internal(format!("{run} started in no VM")))?;
            let vm = host.vms.get(vm)?;
            let hold = vm.hold()?;
            let masks = secrets::masks_again(host, vm.id(), run, uses).await?;
            let reader = match turn {
                Some(turn) => turn.reader_again(run).await?,
                None => Reader::none(),
            };
            let process = rejoin::find_again(host, &vm, run).await?;
            Ok::<_, Fault>((process, masks, reader, vm, hold))
        };
        // Once found it can be ended in order; it is waited for a little.
        let given_up = async {
            context.cancelled().cancelled().await;
            tokio::time::sleep(host.settings.cancel_grace).await;
        };
        let end = tokio::select! {
            found = found => match found {
                Ok((process, masks, reader, vm, _hold)) => {
                    tracing::info!(%run, "found again");
                    let end = self.logged(run, process, &masks, turn, reader, context);
                    let end = Box::pin(end).await;
                    secrets::forget(&vm, run, uses).await;
                    end
                }
                Err(why) => run::lost(&format!("the worker was restarted meanwhile, and {why}")),
            },
            () = given_up => RunState::Cancelled,
        };
        self.end(run, end).await
    }

    /// Writes how a run ended, and with it its task's end. It is tried for a while, as nothing else tells
    /// what the guest has done; an end that is written changes nothing when it is written again.
    pub(crate) async fn end(&self, run: RunRef, end: RunState) -> Result<Outcome, Fault> {
        let mut tried = 1;
        let finish = loop {
            match self.host.queue.finish_run(run, end.clone(), self.host.now()).await {
                Ok(finish) => break finish,
                Err(StoreError::Database(error)) if tried < END_TRIES => {
                    tracing::warn!(%run, %error, tried, "cannot write a run's end; trying again");
                }
                Err(error) => return Err(error.into()),
            }
            tried += 1;
            tokio::time::sleep(END_PAUSE).await;
        };
        match finish {
            Finish::Written => self.host.metrics.run_ended(run, &end),
            Finish::AlreadyEnded(state) => {
                tracing::info!(%run, state = state.as_str(), "had ended");
            }
        }
        Ok(Outcome::Settled)
    }
}

/// What a task's log lines and its part of a trace are known by.
fn span(host: &Host, task: &Task) -> Span {
    let kind = task.kind.as_str();
    let span = tracing::info_span!(
        "task", task = %task.id, kind, worker = %host.id, trace_id = Empty, workspace = Empty,
        prompt = Empty, vm = Empty, execution = Empty, template = Empty,
    );
    let note = |field: &str, id: &dyn std::fmt::Display| {
        span.record(field, tracing::field::display(id));
    };
    match &task.kind {
        TaskKind::VmCreate { vm_id } | TaskKind::VmDelete { vm_id } => note("vm", vm_id),
        TaskKind::VmExecute { vm_id, execution_id } => {
            note("vm", vm_id);
            note("execution", execution_id);
        }
        TaskKind::WorkspaceCreate { workspace_id }
        | TaskKind::WorkspacePrepare { workspace_id }
        | TaskKind::WorkspaceDelete { workspace_id } => {
            note("workspace", workspace_id);
        }
        TaskKind::PromptExecute { workspace_id, prompt_id } => {
            note("workspace", workspace_id);
            note("prompt", prompt_id);
        }
        TaskKind::TemplateBuild { template, .. } => note("template", template),
    }
    span
}

/// An entry that tells a run's progress.
pub(crate) fn status(stage: &str, message: String) -> EventBody {
    EventBody::Status { stage: stage.to_owned(), message }
}
