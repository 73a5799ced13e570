//! Workers: who is there, and when each was last heard of.

use crate::{
    Store, StoreError,
    event_log::{self, Note},
    page, row,
};
use aetherium_model::{
    HeldTemplate, Timestamp, WorkerId,
    event::{EventType, Subject},
    page::{Page, PageRequest},
    worker::{Worker, WorkerState},
};
use sqlx::any::AnyRow;

impl Store {
    /// Writes a worker as it describes itself at its start. `created_at` of a known one stays.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn upsert_worker(&self, worker: &Worker) -> Result<(), StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            sqlx::query(
                "INSERT INTO workers (id, hostname, version, driver, driver_reason, internal_address, \
                 templates_json, vcpus, memory_mib, vms, state, created_at, heartbeat_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
                 ON CONFLICT (id) DO UPDATE SET hostname = excluded.hostname, \
                 version = excluded.version, driver = excluded.driver, \
                 driver_reason = excluded.driver_reason, \
                 internal_address = excluded.internal_address, \
                 templates_json = excluded.templates_json, vcpus = excluded.vcpus, \
                 memory_mib = excluded.memory_mib, vms = excluded.vms, state = excluded.state, \
                 heartbeat_at = excluded.heartbeat_at",
            )
            .bind(worker.id.to_string())
            .bind(&worker.hostname)
            .bind(&worker.version)
            .bind(worker.driver.map(|driver| driver.as_str()))
            .bind(&worker.driver_reason)
            .bind(&worker.internal_address)
            .bind(row::to_json(&worker.templates)?)
            .bind(i64::from(worker.vcpus))
            .bind(i64::try_from(worker.memory_mib).unwrap_or(i64::MAX))
            .bind(i64::from(worker.vms))
            .bind(worker.state.as_str())
            .bind(worker.created_at.as_millis())
            .bind(worker.heartbeat_at.as_millis())
            .execute(&mut *tx)
            .await?;
            let note = Note::new(EventType::WorkerJoined, Subject::Worker(worker.id));
            event_log::note(&mut tx, note, worker.heartbeat_at).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Notes that a worker lives, with how many VMs and which templates it has.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn heartbeat(
        &self,
        id: WorkerId,
        now: Timestamp,
        vms: u32,
        templates: &[HeldTemplate],
    ) -> Result<(), StoreError> {
        self.change(|| async {
            let mut tx = self.begin_unsynced().await?;
            let update = "UPDATE workers SET heartbeat_at = $2, vms = $3, templates_json = $4 \
                          WHERE id = $1";
            let updated = sqlx::query(update)
                .bind(id.to_string())
                .bind(now.as_millis())
                .bind(i64::from(vms))
                .bind(row::to_json(&templates)?)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            found(updated.rows_affected(), id)
        })
        .await
    }

    /// Says whether a worker takes new VMs.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn set_worker_state(
        &self,
        id: WorkerId,
        state: WorkerState,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let updated = sqlx::query("UPDATE workers SET state = $2 WHERE id = $1")
                .bind(id.to_string())
                .bind(state.as_str())
                .execute(&mut *tx)
                .await?;
            found(updated.rows_affected(), id)?;
            let note = Note::new(EventType::of_worker(state), Subject::Worker(id));
            event_log::note(&mut tx, note, now).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// One worker.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn worker(&self, id: WorkerId) -> Result<Worker, StoreError> {
        let row = self
            .first(sqlx::query("SELECT * FROM workers WHERE id = $1").bind(id.to_string()))
            .await?;
        decode(&row.ok_or_else(|| StoreError::not_found("worker", id))?)
    }

    /// Workers, newest first.
    ///
    /// # Errors
    /// [`StoreError::InvalidCursor`] or [`StoreError::Database`].
    pub async fn workers(&self, page: &PageRequest) -> Result<Page<Worker>, StoreError> {
        let (below, rows) = page::bounds::<WorkerId>(page, WorkerId::PREFIX)?;
        let found = self
            .all(
                sqlx::query("SELECT * FROM workers WHERE id < $1 ORDER BY id DESC LIMIT $2")
                    .bind(below)
                    .bind(rows),
            )
            .await?;
        let workers = found.iter().map(decode).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(workers, page::limit(page), |worker: &Worker| worker.id.to_string()))
    }
}

fn found(rows: u64, id: WorkerId) -> Result<(), StoreError> {
    if rows == 0 { Err(StoreError::not_found("worker", id)) } else { Ok(()) }
}

fn decode(from: &AnyRow) -> Result<Worker, StoreError> {
    Ok(Worker {
        id: row::parsed(from, "id")?,
        hostname: row::text(from, "hostname")?,
        version: row::text(from, "version")?,
        driver: row::maybe_word(from, "driver")?,
        driver_reason: row::text(from, "driver_reason")?,
        internal_address: row::text(from, "internal_address")?,
        templates: row::json(from, "templates_json")?,
        vcpus: row::number(from, "vcpus")?,
        memory_mib: row::number(from, "memory_mib")?,
        vms: row::number(from, "vms")?,
        state: row::word(from, "state")?,
        created_at: row::time(from, "created_at")?,
        heartbeat_at: row::time(from, "heartbeat_at")?,
    })
}
