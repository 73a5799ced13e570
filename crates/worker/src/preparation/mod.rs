//! Preparing a workspace: what its setup asks for, put into its disk before its first prompt.
//!
//! ```text
//! make the disk ─► [tools] ─► a VM ─► step 1 ─► step 2 ─► … ─► ready
//!                               └────────┴─────────┴─► failed(step, why), until it is prepared again
//! ```
//! Which steps there are, and which of them are still to be done, is pure (`plan.rs`). How far they are is
//! in the workspace's row as each begins and ends, what they print in their task's log. A step that was
//! under way when its worker was killed is done again from its beginning, after what is left of it was
//! ended; one that was done is not.

mod accounts;
mod git;
mod guest;
mod plan;
mod steps;

pub(crate) use guest::Guest;
pub(crate) use plan::{TOOLS, environment};
pub(crate) use steps::variables;

use crate::{handler::status, host::Host, room::Asker, run, tools, workspace};
use aetherium_model::{
    Code, Fault, WorkspaceId,
    recipe::UserName,
    setup::{Preparation, StepReport, StepState},
    task::Task,
    workspace::{Workspace, WorkspaceState},
};
use aetherium_queue::{Outcome, TaskContext};
use aetherium_store::{RunRef, StoreError};
use plan::Planned;
use std::{sync::Arc, time::Duration};
use steps::Ground;
use tokio_util::sync::CancellationToken;

/// Makes a workspace's disk, if it has none yet, and prepares it; then says where it stands. A worker that
/// is told to stop gives the task back.
pub(crate) async fn from_task(
    host: &Arc<Host>,
    id: WorkspaceId,
    task: &Task,
    context: &TaskContext,
) -> Result<Outcome, Fault> {
    let stop = CancellationToken::new();
    let mut work = Box::pin(made_and_prepared(host, id, task, context, &stop));
    let ended = tokio::select! {
        ended = &mut work => Some(ended),
        () = context.cancelled().cancelled() => None,
        () = host.draining.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            stop.cancel();
            work.await
        }
    };
    let (state, outcome) = match ended {
        Ok(()) => (WorkspaceState::Ready, Outcome::Done),
        Err(fault) if fault.code == Code::WorkerLost || host.draining.is_cancelled() => {
            return Ok(Outcome::Retry { after: Duration::ZERO, fault });
        }
        Err(fault) => {
            let state = WorkspaceState::Failed { fault: fault.clone() };
            match fault.code {
                Code::Cancelled => (state, Outcome::Cancelled),
                _ => (state, Outcome::Failed(fault)),
            }
        }
    };
    match host.queue.set_workspace_state(id, &state, host.now()).await {
        // It is being deleted, for which this was cancelled.
        Err(StoreError::Conflict { .. }) => Ok(outcome),
        written => Ok(written.map(|()| outcome)?),
    }
}

async fn made_and_prepared(
    host: &Arc<Host>,
    id: WorkspaceId,
    task: &Task,
    context: &TaskContext,
    stop: &CancellationToken,
) -> Result<(), Fault> {
    let mut workspace = host.queue.store().workspace(id).await?;
    tools::provide(host, &mut workspace, task.id, stop).await?;
    workspace::make_disk(host, &workspace).await?;
    let log = RunRef::Task(task.id);
    let plan = plan::plan(&workspace.setup, &workspace.secrets);
    let mut progress = Progress::begin(host, &workspace, &plan, task).await?;
    if !progress.has_work() {
        for step in &plan {
            progress.tell(log, "step_unchanged", &step.name).await;
        }
        return Ok(());
    }
    host.queue.set_workspace_state(id, &WorkspaceState::Preparing, host.now()).await?;
    let asker = Some(Asker { log, context });
    let (vm, _hold) = unless(stop, workspace::ensure_vm(host, id, asker)).await??;
    let agent = unless(stop, vm.agent()).await??;
    let guest = Guest { host, workspace: &workspace, vm: &vm, agent };
    if user(host, &workspace)?.is_some() && !guest.has_users()? {
        let why = "the process driver makes no users: every step is run as the worker's own";
        progress.tell(log, "warning", why).await;
    }
    let ground = Ground { guest, log, stop };
    ground.end_remnants().await?;
    for (number, step) in plan.iter().enumerate() {
        if !progress.is_waiting(number) {
            progress.tell(log, "step_unchanged", &step.name).await;
            continue;
        }
        progress.set(number, StepState::Running).await?;
        progress.tell(log, "step_started", &step.name).await;
        let done = ground.perform(number, step).await;
        host.tenure.check()?;
        let Err(fault) = done else {
            progress.set(number, StepState::Done).await?;
            progress.tell(log, "step_done", &step.name).await;
            continue;
        };
        if fault.code == Code::WorkerLost || host.draining.is_cancelled() {
            // For this worker's next process.
            return Err(fault);
        }
        progress.set(number, StepState::Failed { fault: fault.clone() }).await?;
        progress.tell(log, "step_failed", &fault.detail).await;
        if fault.code == Code::Cancelled || !step.continue_on_error {
            return Err(fault);
        }
    }
    Ok(())
}

/// Waits for something, unless it is to stop.
async fn unless<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Result<T, Fault> {
    tokio::select! {
        done = work => Ok(done),
        () = stop.cancelled() => Err(cancelled()),
    }
}

fn cancelled() -> Fault {
    Fault::new(Code::Cancelled, "the preparation was cancelled")
        .remedy("prepare it again (`aetherium ws retry`)")
}

/// How far a preparation is, in memory and in its workspace's row.
struct Progress<'a> {
    host: &'a Arc<Host>,
    id: WorkspaceId,
    now: Preparation,
    /// Reports before the plan's own: of what is done before there is a VM.
    before: usize,
}

impl<'a> Progress<'a> {
    async fn begin(
        host: &'a Arc<Host>,
        workspace: &Workspace,
        plan: &[Planned<'_>],
        task: &Task,
    ) -> Result<Self, Fault> {
        let last = &workspace.preparation;
        let is_ours = |report: &&StepReport| report.action == TOOLS;
        let mut steps: Vec<_> = last.steps.iter().filter(is_ours).cloned().collect();
        let before = steps.len();
        steps.extend(plan::outset(plan, last, task.id));
        let task_id = (!steps.is_empty()).then_some(task.id);
        let now = Preparation { task_id, steps, template: last.template.clone() };
        let progress = Self { host, id: workspace.id, now, before };
        if !progress.now.is_empty() || !last.is_empty() {
            progress.write().await?;
        }
        Ok(progress)
    }

    fn has_work(&self) -> bool {
        self.now.steps[self.before..].iter().any(|step| step.state == StepState::Waiting)
    }

    fn is_waiting(&self, number: usize) -> bool {
        self.now.steps[self.before + number].state == StepState::Waiting
    }

    async fn set(&mut self, number: usize, state: StepState) -> Result<(), Fault> {
        let now = self.host.now();
        let report = &mut self.now.steps[self.before + number];
        match state {
            StepState::Running => (report.started_at, report.finished_at) = (Some(now), None),
            _ => report.finished_at = Some(now),
        }
        report.state = state;
        self.write().await
    }

    async fn write(&self) -> Result<(), Fault> {
        Ok(self.host.queue.set_preparation(self.id, &self.now, self.host.now()).await?)
    }

    async fn tell(&self, log: RunRef, stage: &str, message: &str) {
        run::append(self.host, log, vec![status(stage, message.to_owned())]).await;
    }
}

/// Who a workspace's steps and prompts run as: as its setup says, else its assistant's definition; who its
/// template says where neither does.
///
/// # Errors
/// There is no such assistant on this worker.
pub(crate) fn user<'a>(
    host: &'a Host,
    workspace: &'a Workspace,
) -> Result<Option<&'a UserName>, Fault> {
    let assistant = host.settings.catalog.assistant(&workspace.ai_assistant)?;
    Ok(workspace.setup.user.as_ref().or(assistant.user.as_ref()))
}
