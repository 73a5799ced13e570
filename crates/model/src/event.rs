//! The event log's entries: what happened to which thing, when, why, and by whom.
//!
//! An event tells of one change that was made. It is written with the change, so there is none
//! without the other. It has no output and no secrets: who wants to know more reads its subject.

use crate::{
    Code, EnvironmentId, ExecutionId, Fault, Name, PromptId, SecretId, TaskId, Timestamp, VmId,
    WorkerId, WorkspaceId,
    environment::MadeFrom,
    run::{Exit, RunState},
    secret::SecretName,
    task::TaskState,
    vm::VmState,
    worker::WorkerState,
    workspace::WorkspaceState,
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The longest reason that an event repeats, in characters; its subject has all of it.
const MAX_DETAIL_CHARS: usize = 500;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$variant_doc:meta])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
        pub enum $name { $($(#[$variant_doc])+ #[serde(rename = $text)] $variant,)+ }

        impl $name {
            /// Every one there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name, as in JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let found = Self::ALL.iter().copied().find(|it| it.as_str() == text);
                found.ok_or_else(|| {
                    let known: Vec<_> = Self::ALL.iter().map(|it| it.as_str()).collect();
                    format!("{text:?} is not {}: give one of {}", $what, known.join(", "))
                })
            }
        }
    };
}

words! {
    /// What kind of thing an event is about.
    SubjectKind, "a kind of subject" {
        /// A workspace.
        Workspace = "workspace",
        /// A VM.
        Vm = "vm",
        /// A prompt.
        Prompt = "prompt",
        /// An execution.
        Execution = "execution",
        /// A task.
        Task = "task",
        /// A worker.
        Worker = "worker",
        /// A template.
        Template = "template",
        /// A secret.
        Secret = "secret",
        /// An environment.
        Environment = "environment",
    }
}

words! {
    /// What happened: the kind of its subject, then the state it came to or what was done to it.
    EventType, "a type of event" {
        /// It was asked for.
        WorkspaceCreating = "workspace.creating",
        /// What its setup asks for is being put into it.
        WorkspacePreparing = "workspace.preparing",
        /// It takes prompts.
        WorkspaceReady = "workspace.ready",
        /// Its removal was asked for.
        WorkspaceDeleting = "workspace.deleting",
        /// It could not be made.
        WorkspaceFailed = "workspace.failed",
        /// It is gone.
        WorkspaceDeleted = "workspace.deleted",
        /// It was asked for.
        VmCreating = "vm.creating",
        /// Its VMM runs.
        VmBooting = "vm.booting",
        /// Its agent answers.
        VmRunning = "vm.running",
        /// It is being frozen.
        VmPausing = "vm.pausing",
        /// It is frozen.
        VmPaused = "vm.paused",
        /// It is being thawed.
        VmResuming = "vm.resuming",
        /// It is being ended on request.
        VmStopping = "vm.stopping",
        /// It ended on request.
        VmStopped = "vm.stopped",
        /// It ended for a reason that nobody asked for.
        VmFailed = "vm.failed",
        /// It was given another time to live.
        VmTtlSet = "vm.ttl_set",
        /// It was accepted.
        PromptQueued = "prompt.queued",
        /// It was handed to the guest.
        PromptRunning = "prompt.running",
        /// Its command ended, with whatever exit code.
        PromptCompleted = "prompt.completed",
        /// It could not be run.
        PromptFailed = "prompt.failed",
        /// It may have run, and its outcome is lost.
        PromptInterrupted = "prompt.interrupted",
        /// Somebody cancelled it.
        PromptCancelled = "prompt.cancelled",
        /// It was accepted.
        ExecutionQueued = "execution.queued",
        /// It was handed to the guest.
        ExecutionRunning = "execution.running",
        /// Its command ended, with whatever exit code.
        ExecutionCompleted = "execution.completed",
        /// It could not be run.
        ExecutionFailed = "execution.failed",
        /// It may have run, and its outcome is lost.
        ExecutionInterrupted = "execution.interrupted",
        /// Somebody cancelled it.
        ExecutionCancelled = "execution.cancelled",
        /// It waits for its worker. Prompts and executions tell this of themselves.
        TaskQueued = "task.queued",
        /// It is handed out once more. Of this, tasks of prompts and executions are told too.
        TaskRetried = "task.retried",
        /// It is done.
        TaskSucceeded = "task.succeeded",
        /// It cannot be done.
        TaskFailed = "task.failed",
        /// It may have been done in part.
        TaskInterrupted = "task.interrupted",
        /// Somebody cancelled it.
        TaskCancelled = "task.cancelled",
        /// Its process began.
        WorkerJoined = "worker.joined",
        /// It takes new VMs.
        WorkerActive = "worker.active",
        /// It takes no new VMs; those it has go on.
        WorkerCordoned = "worker.cordoned",
        /// It takes no new VMs and ends those it has.
        WorkerDraining = "worker.draining",
        /// It was drained.
        WorkerDrained = "worker.drained",
        /// It stopped in order.
        WorkerStopped = "worker.stopped",
        /// It no longer speaks.
        WorkerGone = "worker.gone",
        /// Its making was asked for.
        TemplateBuilding = "template.building",
        /// It was made.
        TemplateBuilt = "template.built",
        /// It could not be made.
        TemplateFailed = "template.failed",
        /// It was given a value.
        SecretSet = "secret.set",
        /// Its value was handed out to a worker, for a prompt or an execution.
        SecretRead = "secret.read",
        /// It is gone.
        SecretDeleted = "secret.deleted",
        /// It was made.
        EnvironmentCreated = "environment.created",
        /// It has another version.
        EnvironmentChanged = "environment.changed",
        /// It is gone; workspaces that were made from it stay.
        EnvironmentDeleted = "environment.deleted",
    }
}

impl EventType {
    /// What kind of thing it happens to.
    pub fn subject_kind(self) -> SubjectKind {
        let kind = self.as_str().split('.').next().unwrap_or_default();
        // Each name begins with its kind's, which a test sees to.
        kind.parse().unwrap_or(SubjectKind::Task)
    }

    /// A VM came to this state.
    pub const fn of_vm(state: &VmState) -> Self {
        match state {
            VmState::Creating => Self::VmCreating,
            VmState::Booting => Self::VmBooting,
            VmState::Running => Self::VmRunning,
            VmState::Pausing => Self::VmPausing,
            VmState::Paused => Self::VmPaused,
            VmState::Resuming => Self::VmResuming,
            VmState::Stopping { .. } => Self::VmStopping,
            VmState::Stopped { .. } => Self::VmStopped,
            VmState::Failed { .. } => Self::VmFailed,
        }
    }

    /// A workspace came to this state.
    pub const fn of_workspace(state: &WorkspaceState) -> Self {
        match state {
            WorkspaceState::Creating => Self::WorkspaceCreating,
            WorkspaceState::Preparing => Self::WorkspacePreparing,
            WorkspaceState::Ready => Self::WorkspaceReady,
            WorkspaceState::Deleting => Self::WorkspaceDeleting,
            WorkspaceState::Failed { .. } => Self::WorkspaceFailed,
        }
    }

    /// A prompt came to this state.
    pub const fn of_prompt(state: &RunState) -> Self {
        match state {
            RunState::Queued => Self::PromptQueued,
            RunState::Running => Self::PromptRunning,
            RunState::Completed { .. } => Self::PromptCompleted,
            RunState::Failed { .. } => Self::PromptFailed,
            RunState::Interrupted { .. } => Self::PromptInterrupted,
            RunState::Cancelled => Self::PromptCancelled,
        }
    }

    /// An execution came to this state.
    pub const fn of_execution(state: &RunState) -> Self {
        match state {
            RunState::Queued => Self::ExecutionQueued,
            RunState::Running => Self::ExecutionRunning,
            RunState::Completed { .. } => Self::ExecutionCompleted,
            RunState::Failed { .. } => Self::ExecutionFailed,
            RunState::Interrupted { .. } => Self::ExecutionInterrupted,
            RunState::Cancelled => Self::ExecutionCancelled,
        }
    }

    /// A task ended so; `None` while it has not.
    pub const fn of_task_end(state: TaskState) -> Option<Self> {
        match state {
            TaskState::Queued | TaskState::Claimed | TaskState::Started => None,
            TaskState::Succeeded => Some(Self::TaskSucceeded),
            TaskState::Failed => Some(Self::TaskFailed),
            TaskState::Interrupted => Some(Self::TaskInterrupted),
            TaskState::Cancelled => Some(Self::TaskCancelled),
        }
    }

    /// A worker came to this state.
    pub const fn of_worker(state: WorkerState) -> Self {
        match state {
            WorkerState::Starting => Self::WorkerJoined,
            WorkerState::Active => Self::WorkerActive,
            WorkerState::Cordoned => Self::WorkerCordoned,
            WorkerState::Draining => Self::WorkerDraining,
            WorkerState::Drained => Self::WorkerDrained,
            WorkerState::Stopped => Self::WorkerStopped,
            WorkerState::Gone => Self::WorkerGone,
        }
    }
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum Subject {
    /// A workspace.
    Workspace(WorkspaceId),
    /// A VM.
    Vm(VmId),
    /// A prompt.
    Prompt(PromptId),
    /// An execution.
    Execution(ExecutionId),
    /// A task.
    Task(TaskId),
    /// A worker.
    Worker(WorkerId),
    /// A template.
    Template(Name),
    /// A secret.
    Secret(SecretId),
    /// An environment.
    Environment(EnvironmentId),
}

impl Subject {
    /// Its kind.
    pub const fn kind(&self) -> SubjectKind {
        match self {
            Self::Workspace(_) => SubjectKind::Workspace,
            Self::Vm(_) => SubjectKind::Vm,
            Self::Prompt(_) => SubjectKind::Prompt,
            Self::Execution(_) => SubjectKind::Execution,
            Self::Task(_) => SubjectKind::Task,
            Self::Worker(_) => SubjectKind::Worker,
            Self::Template(_) => SubjectKind::Template,
            Self::Secret(_) => SubjectKind::Secret,
            Self::Environment(_) => SubjectKind::Environment,
        }
    }

    /// Its id, or a template's name.
    pub fn id(&self) -> String {
        match self {
            Self::Workspace(id) => id.to_string(),
            Self::Vm(id) => id.to_string(),
            Self::Prompt(id) => id.to_string(),
            Self::Execution(id) => id.to_string(),
            Self::Task(id) => id.to_string(),
            Self::Worker(id) => id.to_string(),
            Self::Template(name) => name.to_string(),
            Self::Secret(id) => id.to_string(),
            Self::Environment(id) => id.to_string(),
        }
    }
}

/// Who made a change.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum Actor {
    /// Whoever holds this API key: the beginning of its SHA-256 in hexadecimal.
    ApiKey(String),
    /// A worker.
    Worker(WorkerId),
    /// Aetherium itself.
    #[default]
    System,
}

/// On whose behalf changes are made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct By {
    /// Who makes them.
    pub actor: Actor,
    /// The HTTP request that asked for them.
    pub request_id: Option<String>,
    /// The project that what is made belongs to.
    pub project: crate::project::ProjectId,
}

impl By {
    /// A worker, for itself.
    pub fn worker(id: WorkerId) -> Self {
        Self { actor: Actor::Worker(id), ..Self::default() }
    }
}

/// What brought a change about.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Cause {
    /// The task that it was part of, or that was made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// The HTTP request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// Why something ended or failed: the beginning of its fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Reason {
    /// The stable code.
    pub code: Code,
    /// What happened.
    pub detail: String,
}

impl From<&Fault> for Reason {
    fn from(fault: &Fault) -> Self {
        Self { code: fault.code, detail: fault.detail.chars().take(MAX_DETAIL_CHARS).collect() }
    }
}

/// The little that an event says beyond its type.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EventData {
    /// Why it ended or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// How a command ended, as a shell would show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The VM that a command was handed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<VmId>,
    /// The worker that has, or is to do, it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<WorkerId>,
    /// A task's type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_type: Option<String>,
    /// When a VM is to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// A secret's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretName>,
    /// An environment's version, with its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<MadeFrom>,
    /// The prompt or execution that a secret was read for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
}

impl EventData {
    /// A reason, if there is one.
    pub fn because(fault: Option<&Fault>) -> Self {
        Self { reason: fault.map(Reason::from), ..Self::default() }
    }

    /// How a run ended, or that it goes on.
    pub fn of_run(state: &RunState) -> Self {
        match state {
            RunState::Queued | RunState::Running | RunState::Cancelled => Self::default(),
            RunState::Completed { exit } => {
                let reason = (exit.exit == Exit::TimedOut).then(|| Reason {
                    code: Code::DeadlineExceeded,
                    detail: format!("its time was up after {} ms", exit.wall_ms),
                });
                Self { exit_code: Some(exit.exit_code), reason, ..Self::default() }
            }
            RunState::Failed { fault } | RunState::Interrupted { fault } => {
                Self::because(Some(fault))
            }
        }
    }
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Event {
    /// Its number: from 1, without gaps, in the order of the log. What happened to one thing is in
    /// the order in which it happened.
    pub seq: i64,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// To what.
    pub subject: Subject,
    /// The workspace that the subject belongs to, or is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<WorkspaceId>,
    /// What brought it about.
    pub cause: Cause,
    /// Who did it.
    pub actor: Actor,
    /// What else there is to say.
    pub data: EventData,
}

/// Types that one filter may name.
pub const MAX_FILTER_TYPES: usize = 8;

/// Which events are wanted: those that meet all that is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventFilter {
    /// Those about this kind of thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<SubjectKind>,
    /// Those about the thing of this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Those about this workspace, and about what belongs to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<WorkspaceId>,
    /// Those of these types; of all where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 8)]
    pub types: Vec<EventType>,
}

/// A part of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EventPage {
    /// The events, oldest first.
    pub items: Vec<Event>,
    /// Pass it as `after` to go on: the number up to which the log was read, whether or not the
    /// events up to it met the filter.
    pub reached: i64,
    /// The number of the oldest event that is kept; what was before is forgotten.
    pub oldest: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_says_what_it_happens_to_and_reads_back() {
        for kind in EventType::ALL {
            let subject = kind.subject_kind().as_str();
            assert!(kind.as_str().starts_with(&format!("{subject}.")), "{kind} of a {subject}");
            assert_eq!(kind.as_str().parse(), Ok(*kind));
        }
        let error = "vm.flying".parse::<EventType>().unwrap_err();
        assert!(error.contains("vm.flying") && error.contains("vm.running"), "{error}");
    }

    #[test]
    fn a_subject_reads_back_by_its_kind_and_id() {
        let subject = Subject::Vm(VmId::new());
        let json = serde_json::json!({"kind": subject.kind(), "id": subject.id()});
        assert_eq!(serde_json::to_value(&subject).unwrap(), json);
        assert_eq!(serde_json::from_value::<Subject>(json).unwrap(), subject);
    }

    #[test]
    fn an_event_repeats_no_more_than_the_beginning_of_a_reason() {
        let fault = Fault::new(Code::Internal, "ä".repeat(10_000));
        let data = EventData::because(Some(&fault));
        assert_eq!(data.reason.unwrap().detail.chars().count(), MAX_DETAIL_CHARS);
    }
}
