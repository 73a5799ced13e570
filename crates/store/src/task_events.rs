//! What the event log tells of tasks. Those of prompts and executions leave it to their runs, but for
//! being handed out once more; those that make templates tell of the template too.

use crate::{
    RunRef, StoreError,
    event_log::{self, Note},
    transact::Tx,
};
use aetherium_model::{
    Fault, Timestamp, WorkspaceId,
    event::{EventData, EventType, Subject},
    task::{Task, TaskKind, TaskState},
};

/// That a task was made.
pub(crate) async fn queued(tx: &mut Tx, task: &Task) -> Result<(), StoreError> {
    if RunRef::of(&task.kind).is_some() {
        return Ok(());
    }
    let at = task.created_at;
    event_log::note(tx, noted(EventType::TaskQueued, task, None), at).await?;
    of_template(tx, EventType::TemplateBuilding, task, None, at).await
}

/// That a task ended.
pub(crate) async fn ended(
    tx: &mut Tx,
    task: &Task,
    state: TaskState,
    fault: Option<&Fault>,
    at: Timestamp,
) -> Result<(), StoreError> {
    let Some(kind) = EventType::of_task_end(state).filter(|_| RunRef::of(&task.kind).is_none())
    else {
        return Ok(());
    };
    event_log::note(tx, noted(kind, task, fault), at).await?;
    let kind = match state {
        TaskState::Succeeded => EventType::TemplateBuilt,
        _ => EventType::TemplateFailed,
    };
    of_template(tx, kind, task, fault, at).await
}

/// That a task is handed out once more, and what went wrong, if anything did.
pub(crate) async fn retried(
    tx: &mut Tx,
    task: &Task,
    why: Option<&Fault>,
    at: Timestamp,
) -> Result<(), StoreError> {
    event_log::note(tx, noted(EventType::TaskRetried, task, why), at).await
}

async fn of_template(
    tx: &mut Tx,
    kind: EventType,
    task: &Task,
    fault: Option<&Fault>,
    at: Timestamp,
) -> Result<(), StoreError> {
    let TaskKind::TemplateBuild { template, .. } = &task.kind else { return Ok(()) };
    let note = Note::new(kind, Subject::Template(template.name.clone())).part_of(Some(task.id));
    event_log::note(tx, note.with(EventData::because(fault)), at).await
}

fn noted(kind: EventType, task: &Task, fault: Option<&Fault>) -> Note {
    let data = EventData {
        worker_id: Some(task.worker_id),
        task_type: Some(task.kind.as_str().to_owned()),
        ..EventData::because(fault)
    };
    let note = Note::new(kind, Subject::Task(task.id)).within(workspace(&task.kind));
    note.part_of(Some(task.id)).with(data)
}

const fn workspace(kind: &TaskKind) -> Option<WorkspaceId> {
    match kind {
        TaskKind::WorkspaceCreate { workspace_id }
        | TaskKind::WorkspacePrepare { workspace_id }
        | TaskKind::WorkspaceDelete { workspace_id }
        | TaskKind::PromptExecute { workspace_id, .. } => Some(*workspace_id),
        _ => None,
    }
}
