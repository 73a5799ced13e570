//! The event log: entries written with the changes they tell of, and numbered when they are read.
//!
//! A number that was given at the insert would make every change wait for the one before it, or a
//! reader miss the change that commits late. So entries have none at first, and [`number`] gives the
//! next ones to what has been committed, one caller at a time: what a reader has passed, no later
//! commit can add to. `docs/decisions/0015` says more.

use crate::{Store, StoreError, row, transact::Tx};
use aetherium_model::{
    TaskId, Timestamp, VmId, WorkspaceId,
    event::{
        By, Cause, Event, EventData, EventFilter, EventPage, EventType, MAX_FILTER_TYPES, Subject,
    },
};
use sqlx::any::AnyRow;
use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

/// Entries that are numbered, or forgotten, in one transaction.
const BATCH: i64 = 10_000;
/// The most entries that one call returns.
pub const MAX_EVENTS: u32 = 500;

/// How much of the log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// Entries older than this are forgotten.
    pub age: Duration,
    /// So many entries are kept, the newest.
    pub events: u64,
}

impl Default for LogBounds {
    fn default() -> Self {
        Self { age: Duration::from_secs(7 * 24 * 3600), events: 1_000_000 }
    }
}

/// An entry to be written.
pub(crate) struct Note {
    pub(crate) kind: EventType,
    pub(crate) subject: Subject,
    pub(crate) workspace_id: Option<WorkspaceId>,
    pub(crate) task_id: Option<TaskId>,
    pub(crate) data: EventData,
}

impl Note {
    pub(crate) fn new(kind: EventType, subject: Subject) -> Self {
        let workspace_id = match subject {
            Subject::Workspace(id) => Some(id),
            _ => None,
        };
        Self { kind, subject, workspace_id, task_id: None, data: EventData::default() }
    }

    pub(crate) fn within(self, workspace_id: Option<WorkspaceId>) -> Self {
        Self { workspace_id, ..self }
    }

    pub(crate) fn within_vm(mut self, vm_id: VmId) -> Self {
        self.data.vm_id = Some(vm_id);
        self
    }

    pub(crate) fn part_of(self, task_id: Option<TaskId>) -> Self {
        Self { task_id, ..self }
    }

    pub(crate) fn with(self, data: EventData) -> Self {
        Self { data, ..self }
    }
}

/// The columns of an entry that do not depend on the change it is part of.
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) ordinal: i64,
    pub(crate) kind: &'static str,
    pub(crate) subject_kind: &'static str,
    pub(crate) request_id: Option<String>,
    pub(crate) actor_json: String,
    pub(crate) data_json: String,
}

impl Entry {
    pub(crate) fn of(note: &Note, by: &By, at: Timestamp) -> Result<Self, StoreError> {
        Ok(Self {
            id: ulid::Ulid::generate().to_string(),
            ordinal: ordinal(at),
            kind: note.kind.as_str(),
            subject_kind: note.subject.kind().as_str(),
            request_id: by.request_id.clone(),
            actor_json: row::to_json(&by.actor)?,
            data_json: row::to_json(&note.data)?,
        })
    }
}

/// Writes an entry, as part of the change it tells of. Whoever changes a thing holds its row before:
/// an entry goes behind those of the same thing that have no number yet, whatever the clocks of the
/// machines say.
pub(crate) async fn note(
    tx: &mut Tx,
    note: impl Into<Option<Note>>,
    at: Timestamp,
) -> Result<(), StoreError> {
    let Some(note) = note.into() else { return Ok(()) };
    let entry = Entry::of(&note, &tx.by, at)?;
    sqlx::query(
        "INSERT INTO event_log (id, ordinal, at, type, subject_kind, subject_id, workspace_id, \
         task_id, request_id, actor_json, data_json) VALUES ($1, (SELECT MAX(after) FROM \
         (SELECT CAST($2 AS BIGINT) AS after UNION ALL SELECT ordinal + 1 FROM event_log \
         WHERE subject_id = $6 AND seq IS NULL) AS earlier), $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(entry.id)
    .bind(entry.ordinal)
    .bind(at.as_millis())
    .bind(entry.kind)
    .bind(entry.subject_kind)
    .bind(note.subject.id())
    .bind(note.workspace_id.map(|id| id.to_string()))
    .bind(note.task_id.map(|id| id.to_string()))
    .bind(entry.request_id)
    .bind(entry.actor_json)
    .bind(entry.data_json)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The time in microseconds, and more than this process has given before.
fn ordinal(at: Timestamp) -> i64 {
    static LAST: AtomicI64 = AtomicI64::new(0);
    // A clock that is millions of years off must not use up the numbers.
    let micros = at.as_millis().clamp(0, 1 << 50) * 1000;
    let next = |last: i64| micros.max(last.saturating_add(1));
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
    // The closure always gives a value, so this is never an error.
    next(last.unwrap_or_else(|last| last))
}

/// Where the log begins and ends.
struct Extent {
    oldest: i64,
    newest: i64,
}

impl Store {
    /// The entries after the one numbered `after` (0: from the oldest that is kept) that meet
    /// `filter`, at most `limit` of them, but no more than [`MAX_EVENTS`]. No entry numbered up to
    /// [`EventPage::reached`] will ever be added.
    ///
    /// Where `after` is beyond the log's end, `reached` is that end.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn history(
        &self,
        filter: &EventFilter,
        after: i64,
        limit: u32,
    ) -> Result<EventPage, StoreError> {
        let extent = self.number().await?;
        let limit = limit.clamp(1, MAX_EVENTS);
        let mut question = sqlx::query(
            "SELECT * FROM event_log WHERE seq > $1 AND seq <= $2 \
             AND ($4 IS NULL OR subject_kind = $4) AND ($5 IS NULL OR subject_id = $5) \
             AND ($6 IS NULL OR workspace_id = $6) \
             AND ($7 IS NULL OR type IN ($7, $8, $9, $10, $11, $12, $13, $14)) \
             ORDER BY seq LIMIT $3",
        )
        .bind(after)
        .bind(extent.newest)
        .bind(i64::from(limit))
        .bind(filter.subject.map(|kind| kind.as_str()))
        .bind(filter.id.clone())
        .bind(filter.workspace_id.map(|id| id.to_string()));
        for place in 0..MAX_FILTER_TYPES {
            // What is left over repeats the first.
            let kind = filter.types.get(place).or(filter.types.first());
            question = question.bind(kind.map(|kind| kind.as_str()));
        }
        let rows = self.all(question).await?;
        let items = rows.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        let reached = match items.last() {
            Some(last) if items.len() >= limit as usize => last.seq,
            _ => extent.newest,
        };
        Ok(EventPage { items, reached, oldest: extent.oldest })
    }

    /// The number of the newest entry; 0 if there was never one.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn newest_event(&self) -> Result<i64, StoreError> {
        Ok(self.number().await?.newest)
    }

    /// Forgets entries beyond `keep`, oldest first. Returns how many.
    ///
    /// # Errors
    /// [`StoreError::Database`]; what was forgotten before it stays so.
    pub async fn prune_events(&self, now: Timestamp, keep: LogBounds) -> Result<u64, StoreError> {
        let age = i64::try_from(keep.age.as_millis()).unwrap_or(i64::MAX);
        let before = now.as_millis().saturating_sub(age);
        let kept = i64::try_from(keep.events).unwrap_or(i64::MAX);
        let surplus = self.newest_event().await?.saturating_sub(kept);
        let mut forgotten = 0;
        loop {
            // The oldest as a whole, so that the log never has a hole.
            let gone = self
                .change(|| async {
                    let mut tx = self.begin_unsynced().await?;
                    let gone = sqlx::query(
                        "DELETE FROM event_log WHERE seq <= (SELECT COALESCE(MAX(seq), 0) FROM \
                         (SELECT seq, at FROM event_log WHERE seq IS NOT NULL \
                         ORDER BY seq LIMIT $3) AS oldest WHERE at < $1 OR seq <= $2)",
                    )
                    .bind(before)
                    .bind(surplus)
                    .bind(BATCH)
                    .execute(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    Ok(gone.rows_affected())
                })
                .await?;
            forgotten += gone;
            if gone == 0 {
                return Ok(forgotten);
            }
        }
    }

    /// Gives the next numbers to entries that have been committed and have none. One look without a
    /// lock, which mostly finds nothing to do.
    async fn number(&self) -> Result<Extent, StoreError> {
        let look = sqlx::query(
            "SELECT value, (SELECT MIN(seq) FROM event_log) AS oldest, (SELECT COUNT(*) FROM \
             (SELECT 1 AS one FROM event_log WHERE seq IS NULL LIMIT 1) AS waiting) AS waiting \
             FROM counters WHERE name = 'event'",
        );
        let found = self.first(look).await?;
        let found = found.ok_or_else(|| StoreError::not_found("counter", "event"))?;
        let mut newest = row::int(&found, "value")?;
        let oldest = row::maybe_number(&found, "oldest")?.unwrap_or(newest + 1);
        if row::int(&found, "waiting")? > 0 {
            newest = self.number_batch().await?;
        }
        Ok(Extent { oldest, newest })
    }

    /// Numbers some entries and returns the last number given. It outlives a power cut before
    /// anybody sees it: a number is never given twice.
    async fn number_batch(&self) -> Result<i64, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            // Held until the end: the statement after it sees whatever the holder before has done.
            let hold = "UPDATE counters SET value = value WHERE name = 'event' RETURNING value";
            let last = row::int(&sqlx::query(hold).fetch_one(&mut *tx).await?, "value")?;
            let numbered = sqlx::query(
                "UPDATE event_log SET seq = numbered.next FROM (SELECT id AS entry, \
                 CAST($1 AS BIGINT) + ROW_NUMBER() OVER (ORDER BY ordinal, id) AS next FROM \
                 (SELECT id, ordinal FROM event_log WHERE seq IS NULL ORDER BY ordinal, id \
                 LIMIT $2) AS oldest) AS numbered WHERE event_log.id = numbered.entry",
            )
            .bind(last)
            .bind(BATCH)
            .execute(&mut *tx)
            .await?;
            let last = last + i64::try_from(numbered.rows_affected()).unwrap_or(0);
            sqlx::query("UPDATE counters SET value = $1 WHERE name = 'event'")
                .bind(last)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(last)
        })
        .await
    }
}

fn decode(from: &AnyRow) -> Result<Event, StoreError> {
    let subject = serde_json::json!({
        "kind": row::text(from, "subject_kind")?,
        "id": row::text(from, "subject_id")?,
    });
    let subject = serde_json::from_value(subject).map_err(|error| StoreError::Corrupt {
        column: "subject_id".to_owned(),
        problem: error.to_string(),
    })?;
    Ok(Event {
        seq: row::int(from, "seq")?,
        at: row::time(from, "at")?,
        kind: row::parsed(from, "type")?,
        subject,
        workspace_id: row::maybe_parsed(from, "workspace_id")?,
        cause: Cause {
            task_id: row::maybe_parsed(from, "task_id")?,
            request_id: row::maybe_text(from, "request_id")?,
        },
        actor: row::json(from, "actor_json")?,
        data: row::json(from, "data_json")?,
    })
}
