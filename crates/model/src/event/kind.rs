//! What happens to which kind of thing: the words of the event log, and which of them a change of state is.

use crate::{
    run::RunState, task::TaskState, vm::VmState, worker::WorkerState, workspace::WorkspaceState,
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

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
}
