//! Durable work: what a task is, and the pure rules of its delivery.
//!
//! ```text
//! queued ─► claimed ─► started ─► succeeded | failed | interrupted
//!    ▲         │          │
//!    └─────────┴──────────┘  lease expired: see [`recover`]
//! queued, claimed, started ─► cancelled
//! ```
//! Delivery is at least once, execution at most once: before a handler lets the guest run anything
//! it writes the start mark. A task that may have run is never silently run again. The mark stays with
//! a task that is handed out once more to find what it had started: it is `started` when it is claimed.

pub use crate::schedule::{Priority, Schedule};

use crate::{
    Code, ExecutionId, Fault, PromptId, TaskId, TemplateRef, Timestamp, TraceParent, VmId,
    WorkerId, WorkspaceId, recipe::Recipe, retry::RetryPolicy,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a claim holds without being renewed.
pub const LEASE: Duration = Duration::from_secs(30);
/// How often most tasks are handed out at most; see [`RetryPolicy::of`].
pub const MAX_ATTEMPTS: u32 = 5;

/// What is to be done, with what it is to be done to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type")]
pub enum TaskKind {
    /// Start a VM.
    #[serde(rename = "vm:create")]
    VmCreate {
        /// The VM, whose row says what it is to be.
        vm_id: VmId,
    },
    /// Run a command in a VM.
    #[serde(rename = "vm:execute")]
    VmExecute {
        /// The VM.
        vm_id: VmId,
        /// The execution, whose row has the command.
        execution_id: ExecutionId,
    },
    /// End a VM and remove what it took.
    #[serde(rename = "vm:delete")]
    VmDelete {
        /// The VM.
        vm_id: VmId,
    },
    /// Make a workspace ready.
    #[serde(rename = "workspace:create")]
    WorkspaceCreate {
        /// The workspace.
        workspace_id: WorkspaceId,
    },
    /// Put into a workspace what its setup asks for, where that has changed or failed before.
    #[serde(rename = "workspace:prepare")]
    WorkspacePrepare {
        /// The workspace.
        workspace_id: WorkspaceId,
    },
    /// Remove a workspace, its VM and its disk.
    #[serde(rename = "workspace:delete")]
    WorkspaceDelete {
        /// The workspace.
        workspace_id: WorkspaceId,
    },
    /// Run a prompt in its workspace's VM, started on demand.
    #[serde(rename = "prompt:execute")]
    PromptExecute {
        /// The workspace.
        workspace_id: WorkspaceId,
        /// The prompt, whose row has the text.
        prompt_id: PromptId,
    },
    /// Make a template of a recipe.
    #[serde(rename = "template:build")]
    TemplateBuild {
        /// The tag it gets.
        template: TemplateRef,
        /// What it is made of.
        recipe: Box<Recipe>,
        /// Whether one of that name is replaced.
        replace: bool,
    },
}

impl TaskKind {
    /// Every type's name.
    pub const NAMES: [&'static str; 8] = [
        "vm:create",
        "vm:execute",
        "vm:delete",
        "workspace:create",
        "workspace:prepare",
        "workspace:delete",
        "prompt:execute",
        "template:build",
    ];

    /// The type's name, as in JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::VmCreate { .. } => "vm:create",
            Self::VmExecute { .. } => "vm:execute",
            Self::VmDelete { .. } => "vm:delete",
            Self::WorkspaceCreate { .. } => "workspace:create",
            Self::WorkspacePrepare { .. } => "workspace:prepare",
            Self::WorkspaceDelete { .. } => "workspace:delete",
            Self::PromptExecute { .. } => "prompt:execute",
            Self::TemplateBuild { .. } => "template:build",
        }
    }

    /// Whether doing it twice does what doing it once does. What runs a user's command does not.
    pub const fn is_idempotent(&self) -> bool {
        !matches!(self, Self::VmExecute { .. } | Self::PromptExecute { .. })
    }

    /// Tasks with the same key run one at a time, in the order they were made.
    pub fn serial_key(&self) -> Option<String> {
        match self {
            Self::WorkspaceCreate { workspace_id }
            | Self::WorkspacePrepare { workspace_id }
            | Self::WorkspaceDelete { workspace_id }
            | Self::PromptExecute { workspace_id, .. } => Some(workspace_id.to_string()),
            Self::VmCreate { vm_id } | Self::VmDelete { vm_id } => Some(vm_id.to_string()),
            Self::TemplateBuild { template, .. } => Some(format!("template:{}", template.name)),
            Self::VmExecute { .. } => None,
        }
    }
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// It waits for a worker.
    Queued,
    /// A worker holds it; nothing irreversible has happened.
    Claimed,
    /// The start mark is written: the guest may have run something.
    Started,
    /// Done.
    Succeeded,
    /// It cannot be done.
    Failed,
    /// It may have run; it is not run again.
    Interrupted,
    /// Somebody cancelled it.
    Cancelled,
}

impl TaskState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Claimed,
        Self::Started,
        Self::Succeeded,
        Self::Failed,
        Self::Interrupted,
        Self::Cancelled,
    ];

    /// The state's name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Claimed => "claimed",
            Self::Started => "started",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing will change any more.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Interrupted | Self::Cancelled)
    }
}

impl std::str::FromStr for TaskState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not a task state"))
    }
}

/// One durable unit of queued work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// What is to be done.
    #[serde(flatten)]
    pub kind: TaskKind,
    /// The worker that must do it.
    pub worker_id: WorkerId,
    /// Where it stands.
    pub state: TaskState,
    /// How soon it is handed out, beside others of its worker.
    #[serde(default)]
    pub priority: Priority,
    /// It runs no earlier than this. Until then it holds nobody up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Timestamp>,
    /// If it has not started by then, it fails as `deadline_exceeded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// How often it was handed out.
    pub attempts: u32,
    /// Whether somebody wants it cancelled; its handler sees to it.
    pub cancel_requested: bool,
    /// Why it failed or was interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// The trace that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceParent>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When the start mark was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

impl Task {
    /// A task that nobody has written yet.
    pub fn new(worker_id: WorkerId, kind: TaskKind, created_at: Timestamp) -> Self {
        Self {
            id: TaskId::new(),
            kind,
            worker_id,
            state: TaskState::Queued,
            priority: Priority::default(),
            run_at: None,
            deadline: None,
            attempts: 0,
            cancel_requested: false,
            fault: None,
            trace: None,
            created_at,
            started_at: None,
            finished_at: None,
        }
    }

    /// Says when it may run, and how soon.
    #[must_use]
    pub const fn scheduled(mut self, schedule: Schedule) -> Self {
        self.priority = schedule.priority;
        self.run_at = schedule.run_at;
        self.deadline = schedule.deadline;
        self
    }

    /// Its place among those that wait for its worker; see [`Priority::turn`].
    pub fn turn(&self) -> Timestamp {
        self.priority.turn(self.run_at.unwrap_or(self.created_at))
    }

    /// Refuses to do a task again that failed, unless doing so is safe and of use.
    ///
    /// # Errors
    /// [`NotAgain`].
    pub const fn may_run_again(&self) -> Result<(), NotAgain> {
        match (self.state, &self.kind) {
            (_, TaskKind::VmExecute { .. } | TaskKind::PromptExecute { .. }) => Err(NotAgain::Run),
            (_, TaskKind::VmCreate { .. } | TaskKind::WorkspaceCreate { .. }) => {
                Err(NotAgain::Create)
            }
            (_, TaskKind::WorkspacePrepare { .. }) => Err(NotAgain::Prepare),
            (
                TaskState::Failed,
                TaskKind::VmDelete { .. }
                | TaskKind::WorkspaceDelete { .. }
                | TaskKind::TemplateBuild { .. },
            ) => Ok(()),
            _ => Err(NotAgain::NotFailed),
        }
    }

    /// Why it must not start any more at `now`, if so.
    pub fn overdue(&self, now: Timestamp) -> Option<Fault> {
        let deadline = self.deadline.filter(|deadline| *deadline <= now)?;
        (self.started_at.is_none()).then(|| {
            Fault::new(
                Code::DeadlineExceeded,
                format!("{} {} had not started by {deadline}", self.kind.as_str(), self.id),
            )
            .remedy("submit it again with a later deadline, or see what its worker is busy with")
        })
    }
}

/// Why a task is not done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAgain {
    /// It has not failed.
    #[error("it has not failed")]
    NotFailed,
    /// It ran a user's command, whose result is recorded.
    #[error("the end of its command is recorded, and stays as it is")]
    Run,
    /// It was to make something that has ended as failed since.
    #[error("what it was to make is recorded as failed, and stays so")]
    Create,
    /// It prepared a workspace, which another task goes on with.
    #[error("another task goes on where it ended")]
    Prepare,
}

impl NotAgain {
    /// What to do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::NotFailed => "wait for its end",
            Self::Run => "submit the prompt or command again",
            Self::Create => "delete what failed and create another",
            Self::Prepare => "prepare the workspace again (`aetherium ws retry`)",
        }
    }
}

/// How a claim was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It was given up, or its lease ran out: nobody can say what the guest does.
    LetGo,
    /// Its worker's process ended, and the next one has begun and taken over the VMs that live.
    Restarted,
}

/// What to do with a task whose claim was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// Hand it out again.
    Requeue,
    /// Hand it out again with its start mark, to find what it had started and go on with that.
    Resume,
    /// End it: it may have run.
    Interrupt(Fault),
    /// End it: it was tried too often.
    GiveUp(Fault),
    /// End it: somebody wanted that anyway, and nothing has run.
    Cancel,
}

/// Decides what becomes of a task whose claim was lost.
pub fn recover(task: &Task, loss: Loss) -> Recovery {
    let most = RetryPolicy::of(&task.kind).attempts;
    if task.state == TaskState::Started && !task.kind.is_idempotent() {
        if loss == Loss::Restarted && task.attempts < most {
            return Recovery::Resume;
        }
        return Recovery::Interrupt(
            Fault::new(
                Code::Interrupted,
                format!(
                    "the worker was lost after {} {} had started; it may have run in part or whole",
                    task.kind.as_str(),
                    task.id
                ),
            )
            .remedy("look at what it did, then submit it again if that is wanted"),
        );
    }
    if task.cancel_requested && !task.kind.is_idempotent() {
        return Recovery::Cancel;
    }
    if task.attempts >= most {
        return Recovery::GiveUp(
            Fault::new(
                Code::RetriesExhausted,
                format!(
                    "{} {} was handed out {} times and never finished",
                    task.kind.as_str(),
                    task.id,
                    task.attempts
                ),
            )
            .remedy("read the worker's log for why it stops, then submit it again"),
        );
    }
    Recovery::Requeue
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn task(kind: TaskKind, state: TaskState, attempts: u32, cancel_requested: bool) -> Task {
        let task = Task::new(WorkerId::new(), kind, Timestamp::from_millis(0));
        Task { state, attempts, cancel_requested, ..task }
    }

    proptest! {
        #[test]
        fn a_users_command_that_may_have_run_is_never_handed_out_again(attempts in 0u32..10, cancel: bool) {
            let kind = TaskKind::PromptExecute { workspace_id: WorkspaceId::new(), prompt_id: PromptId::new() };
            let started = task(kind, TaskState::Started, attempts, cancel);
            prop_assert!(matches!(recover(&started, Loss::LetGo), Recovery::Interrupt(_)));
            // By a worker that may find it, it is gone on with, but not for ever.
            let verdict = recover(&started, Loss::Restarted);
            if attempts < MAX_ATTEMPTS {
                prop_assert_eq!(verdict, Recovery::Resume);
            } else {
                prop_assert!(matches!(verdict, Recovery::Interrupt(_)));
            }
        }

        #[test]
        fn a_task_that_has_not_started_is_handed_out_again_until_it_was_tried_too_often(attempts in 0u32..10) {
            let kind = TaskKind::VmExecute { vm_id: VmId::new(), execution_id: ExecutionId::new() };
            let claimed = task(kind, TaskState::Claimed, attempts, false);
            for loss in [Loss::LetGo, Loss::Restarted] {
                let verdict = recover(&claimed, loss);
                if attempts < MAX_ATTEMPTS {
                    prop_assert_eq!(verdict, Recovery::Requeue);
                } else {
                    prop_assert!(matches!(verdict, Recovery::GiveUp(_)));
                }
            }
        }
    }

    #[test]
    fn deleting_a_vm_can_be_repeated_though_it_had_started() {
        let kind = TaskKind::VmDelete { vm_id: VmId::new() };
        let started = task(kind, TaskState::Started, 1, false);
        assert_eq!(recover(&started, Loss::Restarted), Recovery::Requeue);
    }

    #[test]
    fn prompts_of_one_workspace_share_a_serial_key() {
        let workspace_id = WorkspaceId::new();
        let key = |prompt_id| TaskKind::PromptExecute { workspace_id, prompt_id }.serial_key();
        assert_eq!(key(PromptId::new()), key(PromptId::new()));
        assert!(key(PromptId::new()).is_some());
    }
}
