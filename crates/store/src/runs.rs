//! Runs: what prompts and executions have in common. The start mark, the log of output, the end.
//!
//! A run ends once, and its last event says how: both are written in one transaction, with the end
//! of its task. Whoever needs both rows takes the task's first, so that no two wait for each other.

use crate::{
    Store, StoreError,
    event_log::{self, Note},
    log::LogHead,
    row, tasks,
    transact::Tx,
};
use aetherium_model::{
    Code, ExecutionId, Fault, PromptId, TaskId, Timestamp, VmId, WorkerId, WorkspaceId,
    event::{EventData, EventType, Subject},
    output::{EventBody, OutputEvent},
    run::RunState,
    task::{Task, TaskKind, TaskState},
};
use sqlx::any::AnyRow;
use std::fmt;

/// A prompt or an execution; or a task that keeps a log as they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunRef {
    /// A prompt.
    Prompt(PromptId),
    /// An execution.
    Execution(ExecutionId),
    /// A task that is no run, by its own log.
    Task(TaskId),
}

impl RunRef {
    /// The run that a task of this kind is for.
    pub const fn of(kind: &TaskKind) -> Option<Self> {
        match kind {
            TaskKind::PromptExecute { prompt_id, .. } => Some(Self::Prompt(*prompt_id)),
            TaskKind::VmExecute { execution_id, .. } => Some(Self::Execution(*execution_id)),
            _ => None,
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Prompt(_) => "prompt",
            Self::Execution(_) => "execution",
            Self::Task(_) => "log of task",
        }
    }
}

impl From<PromptId> for RunRef {
    fn from(id: PromptId) -> Self {
        Self::Prompt(id)
    }
}

impl From<ExecutionId> for RunRef {
    fn from(id: ExecutionId) -> Self {
        Self::Execution(id)
    }
}

impl fmt::Display for RunRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prompt(id) => id.fmt(f),
            Self::Execution(id) => id.fmt(f),
            Self::Task(id) => id.fmt(f),
        }
    }
}

/// Whether the guest may be handed the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "without the mark the guest must run nothing"]
pub enum Start {
    /// The start mark is written.
    Marked,
    /// Somebody cancelled it: finish the run as [`RunState::Cancelled`].
    Cancelled,
    /// The task's claim was lost, its deadline has passed, or the run was started or ended before:
    /// leave it alone.
    NotOurs,
}

/// Whether an end was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Finish {
    /// This is how it ended.
    Written,
    /// It had ended before; nothing was changed.
    AlreadyEnded(RunState),
}

impl Store {
    /// Writes the start mark: run and task (if it has one) are started, in `vm_id`. Only after
    /// this may the guest run anything.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Fenced`] or [`StoreError::Database`].
    pub async fn start_run(
        &self,
        run: RunRef,
        claim: Option<&Task>,
        vm_id: VmId,
        now: Timestamp,
    ) -> Result<Start, StoreError> {
        self.change(|| async {
            let mut tx = self.begin_fenced().await?;
            if let Some(claim) = claim {
                match tasks::held(&mut tx, claim).await? {
                    Some(task) if task.state == TaskState::Claimed => {
                        if task.cancel_requested {
                            return Ok(Start::Cancelled);
                        }
                        if let Some(fault) = task.overdue(now) {
                            tasks::end(&mut tx, &task, TaskState::Failed, Some(&fault), now)
                                .await?;
                            tx.commit().await?;
                            return Ok(Start::NotOurs);
                        }
                        tasks::write_start(&mut tx, task.id, now).await?;
                    }
                    _ => return Ok(Start::NotOurs),
                }
            }
            let head = lock(&mut tx, run).await?;
            if head.state != RunState::Queued || head.task_id != claim.map(|task| task.id) {
                return Ok(Start::NotOurs);
            }
            let update = "UPDATE runs SET state = $2, state_json = $3, vm_id = $4, started_at = $5 \
                          WHERE id = $1";
            sqlx::query(update)
                .bind(run.to_string())
                .bind(RunState::Running.as_str())
                .bind(row::to_json(&RunState::Running)?)
                .bind(vm_id.to_string())
                .bind(now.as_millis())
                .execute(&mut *tx)
                .await?;
            let note = noted(run, &RunState::Running, head.workspace_id, head.task_id);
            let note = note.map(|note| note.within_vm(vm_id));
            event_log::note(&mut tx, note, now).await?;
            tx.commit().await?;
            Ok(Start::Marked)
        })
        .await
    }

    /// Adds to a run's log and returns the number of its last entry. Output beyond
    /// [`MAX_OUTPUT_BYTES`](aetherium_model::limits::MAX_OUTPUT_BYTES) is dropped; the log says so
    /// once.
    ///
    /// # Errors
    /// [`StoreError::RunEnded`] if it takes no more, [`StoreError::NotFound`] or
    /// [`StoreError::Database`].
    pub async fn append_events(
        &self,
        run: RunRef,
        events: Vec<(Timestamp, EventBody)>,
    ) -> Result<i64, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let head = lock(&mut tx, run).await?;
            if head.state.is_terminal() {
                let state = head.state.as_str().to_owned();
                return Err(StoreError::RunEnded { run: run.to_string(), state });
            }
            let log = insert_events(&mut tx, run, head.log, events.clone()).await?;
            sqlx::query(
                "UPDATE runs SET last_seq = $2, output_bytes = $3, truncated = $4 WHERE id = $1",
            )
            .bind(run.to_string())
            .bind(log.last_seq)
            .bind(i64::try_from(log.output_bytes).unwrap_or(i64::MAX))
            .bind(i64::from(log.truncated))
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(log.last_seq)
        })
        .await
    }

    /// Ends a run: its state, its last event and the end of its task, all or nothing.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if `state` is not an end or cannot follow the run's state,
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn finish_run(
        &self,
        run: RunRef,
        state: RunState,
        now: Timestamp,
    ) -> Result<Finish, StoreError> {
        let task_id = self.task_of(run).await?;
        self.change(|| async {
            let (mut tx, task) = match task_id {
                Some(id) => {
                    let mut tx = self.begin().await?;
                    let task = tasks::lock(&mut tx, id).await?;
                    (tx, Some(task))
                }
                // Nobody repeats a run without a task, whatever its record says.
                None => (self.begin_unsynced().await?, None),
            };
            let head = lock(&mut tx, run).await?;
            if head.state.is_terminal() {
                return Ok(Finish::AlreadyEnded(head.state));
            }
            if !state.is_terminal() || !head.state.may_become(&state) {
                return Err(StoreError::Conflict {
                    detail: format!(
                        "{run} is {} and cannot become {}",
                        head.state.as_str(),
                        state.as_str()
                    ),
                    remedy: "write the start mark before a result, and an end only once",
                });
            }
            if let Some(task) = task.filter(|task| !task.state.is_terminal()) {
                let (end, fault) = task_end(&state);
                tasks::write_end(&mut tx, task.id, end, fault, now).await?;
            }
            write_end(&mut tx, run, &head, &state, now).await?;
            tx.commit().await?;
            Ok(Finish::Written)
        })
        .await
    }

    /// The task of a run. It never changes, so this needs no transaction.
    pub(crate) async fn task_of(&self, run: RunRef) -> Result<Option<TaskId>, StoreError> {
        let row = self
            .first(sqlx::query("SELECT task_id FROM runs WHERE id = $1").bind(run.to_string()))
            .await?;
        row::maybe_parsed(&row.ok_or_else(|| StoreError::not_found(run.what(), run))?, "task_id")
    }

    /// A run's log after the entry numbered `after_seq` (0 for all of it), at most `limit` entries.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn events(
        &self,
        run: RunRef,
        after_seq: i64,
        limit: u32,
    ) -> Result<Vec<OutputEvent>, StoreError> {
        let rows = self
            .all(
                sqlx::query(
                    "SELECT seq, at, body_json FROM events WHERE run_id = $1 AND seq > $2 \
             ORDER BY seq LIMIT $3",
                )
                .bind(run.to_string())
                .bind(after_seq)
                .bind(i64::from(limit)),
            )
            .await?;
        rows.iter().map(decode_event).collect()
    }

    /// Where a run stands.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn run_state(&self, run: RunRef) -> Result<RunState, StoreError> {
        let row = self
            .first(sqlx::query("SELECT state_json FROM runs WHERE id = $1").bind(run.to_string()))
            .await?;
        row::json(&row.ok_or_else(|| StoreError::not_found(run.what(), run))?, "state_json")
    }

    /// Runs of a VM that have not ended, oldest first: what a worker must end when it finds the VM
    /// gone.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn unfinished_runs(&self, vm_id: VmId) -> Result<Vec<RunRef>, StoreError> {
        let open = "SELECT id FROM runs WHERE vm_id = $1 AND finished_at IS NULL ORDER BY id";
        let rows = self.all(sqlx::query(open).bind(vm_id.to_string())).await?;
        rows.iter().map(decode_ref).collect()
    }

    /// Ends, as interrupted, every run without a task in the VMs of a worker that has just begun:
    /// whoever followed it was connected through the earlier process. Returns what was ended.
    ///
    /// # Errors
    /// [`StoreError::Database`]; what was ended before it stays so.
    pub async fn interrupt_interactive_runs(
        &self,
        worker_id: WorkerId,
        now: Timestamp,
    ) -> Result<Vec<RunRef>, StoreError> {
        let rows = self
            .all(
                sqlx::query(
                    "SELECT runs.id AS id FROM runs JOIN vms ON vms.id = runs.vm_id \
             WHERE vms.worker_id = $1 AND runs.task_id IS NULL AND runs.finished_at IS NULL \
             ORDER BY runs.id",
                )
                .bind(worker_id.to_string()),
            )
            .await?;
        let runs = rows.iter().map(decode_ref).collect::<Result<Vec<_>, _>>()?;
        for run in &runs {
            let fault = Fault::new(
                Code::Interrupted,
                format!("the worker was lost while {run} ran; it may have run in part or whole"),
            )
            .remedy("look at what it did, then run it again if that is wanted");
            let end = RunState::Interrupted { fault };
            self.change(|| async {
                let mut tx = self.begin().await?;
                end_if_open(&mut tx, *run, &end, now).await?;
                Ok(tx.commit().await?)
            })
            .await?;
        }
        Ok(runs)
    }
}

pub(crate) fn decode_ref(found: &AnyRow) -> Result<RunRef, StoreError> {
    let prompt = row::text(found, "id")?.parse::<PromptId>().map(RunRef::Prompt);
    prompt.or_else(|_| row::parsed(found, "id").map(RunRef::Execution))
}

/// A run's row, held until the transaction ends.
struct Head {
    state: RunState,
    task_id: Option<TaskId>,
    workspace_id: Option<WorkspaceId>,
    log: LogHead,
}

/// Reads a run and holds its row, which an update without effect does in both databases.
async fn lock(tx: &mut Tx, run: RunRef) -> Result<Head, StoreError> {
    let found = sqlx::query(
        "UPDATE runs SET last_seq = last_seq WHERE id = $1 \
         RETURNING state_json, task_id, workspace_id, last_seq, output_bytes, truncated",
    )
    .bind(run.to_string())
    .fetch_optional(&mut **tx)
    .await?
    .ok_or_else(|| StoreError::not_found(run.what(), run))?;
    Ok(Head {
        state: row::json(&found, "state_json")?,
        task_id: row::maybe_parsed(&found, "task_id")?,
        workspace_id: row::maybe_parsed(&found, "workspace_id")?,
        log: LogHead {
            last_seq: row::int(&found, "last_seq")?,
            output_bytes: row::number(&found, "output_bytes")?,
            truncated: row::int(&found, "truncated")? != 0,
        },
    })
}

/// Ends a run, unless it is gone or has ended.
pub(crate) async fn end_if_open(
    tx: &mut Tx,
    run: RunRef,
    state: &RunState,
    now: Timestamp,
) -> Result<(), StoreError> {
    match lock(tx, run).await {
        Ok(head) if head.state.is_terminal() => Ok(()),
        Ok(head) => write_end(tx, run, &head, state, now).await,
        Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn write_end(
    tx: &mut Tx,
    run: RunRef,
    head: &Head,
    state: &RunState,
    now: Timestamp,
) -> Result<(), StoreError> {
    let end = vec![(now, EventBody::End { state: state.clone() })];
    let log = insert_events(tx, run, head.log, end).await?;
    sqlx::query(
        "UPDATE runs SET state = $2, state_json = $3, finished_at = $4, last_seq = $5, \
         output_bytes = $6, truncated = $7 WHERE id = $1",
    )
    .bind(run.to_string())
    .bind(state.as_str())
    .bind(row::to_json(state)?)
    .bind(now.as_millis())
    .bind(log.last_seq)
    .bind(i64::try_from(log.output_bytes).unwrap_or(i64::MAX))
    .bind(i64::from(log.truncated))
    .execute(&mut **tx)
    .await?;
    event_log::note(tx, noted(run, state, head.workspace_id, head.task_id), now).await
}

/// That a run came to this state. A task with a log of its own tells of itself.
pub(crate) fn noted(
    run: RunRef,
    state: &RunState,
    workspace_id: Option<WorkspaceId>,
    task_id: Option<TaskId>,
) -> Option<Note> {
    let (kind, subject) = match run {
        RunRef::Prompt(id) => (EventType::of_prompt(state), Subject::Prompt(id)),
        RunRef::Execution(id) => (EventType::of_execution(state), Subject::Execution(id)),
        RunRef::Task(_) => return None,
    };
    let note = Note::new(kind, subject).within(workspace_id).part_of(task_id);
    Some(note.with(EventData::of_run(state)))
}

/// Adds entries to a log. The log's new head is the caller's to write.
async fn insert_events(
    tx: &mut Tx,
    run: RunRef,
    mut log: LogHead,
    events: Vec<(Timestamp, EventBody)>,
) -> Result<LogHead, StoreError> {
    let id = run.to_string();
    for event in log.admit(events) {
        sqlx::query("INSERT INTO events (run_id, seq, at, body_json) VALUES ($1, $2, $3, $4)")
            .bind(&id)
            .bind(event.seq)
            .bind(event.at.as_millis())
            .bind(row::to_json(&event.body)?)
            .execute(&mut **tx)
            .await?;
    }
    Ok(log)
}

/// How a task ends whose run ended so.
fn task_end(state: &RunState) -> (TaskState, Option<&Fault>) {
    match state {
        RunState::Failed { fault } => (TaskState::Failed, Some(fault)),
        RunState::Interrupted { fault } => (TaskState::Interrupted, Some(fault)),
        RunState::Cancelled => (TaskState::Cancelled, None),
        RunState::Completed { .. } | RunState::Queued | RunState::Running => {
            (TaskState::Succeeded, None)
        }
    }
}

fn decode_event(from: &AnyRow) -> Result<OutputEvent, StoreError> {
    Ok(OutputEvent {
        seq: row::int(from, "seq")?,
        at: row::time(from, "at")?,
        body: row::json(from, "body_json")?,
    })
}
