//! The event log's entries: what happened to which thing, when, why, and by whom.
//!
//! An event tells of one change that was made. It is written with the change, so there is none
//! without the other. It has no output and no secrets: who wants to know more reads its subject.

mod kind;

pub use kind::{EventType, SubjectKind};

use crate::{
    Code, EnvironmentId, ExecutionId, Fault, Name, PromptId, SecretId, TaskId, Timestamp, VmId,
    WorkerId, WorkspaceId,
    environment::MadeFrom,
    run::{Exit, RunState},
    secret::SecretName,
};
use serde::{Deserialize, Serialize};

/// The longest reason that an event repeats, in characters; its subject has all of it.
const MAX_DETAIL_CHARS: usize = 500;

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
