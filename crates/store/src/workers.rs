//! Workers: who is there, what each has, until when its lease runs, and what its operator wants of it.

use crate::{
    Fence, Store, StoreError,
    event_log::{self, Note},
    fence::{next_epoch, with_clock},
    page,
    reservations::{self, mib},
    row,
    transact::Tx,
};
use aetherium_model::{
    HeldTemplate, Timestamp, WorkerId,
    event::{EventType, Subject},
    page::{Page, PageRequest},
    room::Room,
    worker::{Admission, Lease, Usage, Worker, WorkerState},
};
use sqlx::any::AnyRow;
use std::time::Duration;

/// What a worker says with each heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Beat {
    /// What its machine uses.
    pub usage: Usage,
    /// The templates it holds, where that has changed since it last said so.
    pub templates: Option<Vec<HeldTemplate>>,
}

/// What a worker is to do, as its operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orders {
    /// Whatever it is given.
    Work,
    /// End its VMs, those that are used when this is over.
    Drain {
        /// How long; as long as it takes where absent.
        left: Option<Duration>,
    },
}

impl Store {
    /// Begins a worker's tenure: writes it as it describes itself, and its lease if it has one. When it
    /// was first seen and what its operator wants stay; what is reserved is counted anew.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn register_worker(
        &self,
        worker: &Worker,
        lease: Option<Lease>,
    ) -> Result<Fence, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let epoch = next_epoch(&mut tx, worker.id).await?;
            upsert(&mut tx, self, worker, lease).await?;
            let reserved = reservations::sum(&mut tx, worker.id).await?;
            reservations::write(&mut tx, worker.id, reserved).await?;
            let note = Note::new(EventType::WorkerJoined, Subject::Worker(worker.id));
            event_log::note(&mut tx, note, worker.heartbeat_at).await?;
            tx.commit().await?;
            Ok(Fence { worker_id: worker.id, epoch })
        })
        .await
    }

    /// Notes that a worker lives, and renews its lease.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if its tenure is over, or [`StoreError::Database`].
    pub async fn heartbeat(
        &self,
        fence: Fence,
        lease: Option<Lease>,
        beat: &Beat,
    ) -> Result<Orders, StoreError> {
        let update = with_clock!(
            self,
            "UPDATE workers SET heartbeat_at = ",
            ", lease_until = ",
            " + CAST($3 AS BIGINT), usage_json = $4, \
             templates_json = COALESCE($5, templates_json) \
             WHERE id = $1 AND state IN ('starting', 'active', 'draining') AND EXISTS \
             (SELECT 1 FROM worker_epochs WHERE worker_id = $1 AND epoch = $2) \
             RETURNING admission, drain_deadline, ",
            " AS clock"
        );
        self.change(|| async {
            let mut tx = self.begin_unsynced().await?;
            let beaten = sqlx::query(update)
                .bind(fence.worker_id.to_string())
                .bind(fence.epoch.0)
                .bind(lease.map(|lease| millis(lease.granted())))
                .bind(row::to_json(&beat.usage)?)
                .bind(beat.templates.as_ref().map(row::to_json).transpose()?)
                .fetch_optional(&mut *tx)
                .await?
                .ok_or_else(|| fence.over())?;
            tx.commit().await?;
            Ok(match admission(&beaten)? {
                Admission::Open | Admission::Cordoned => Orders::Work,
                Admission::Draining { deadline } => {
                    let clock = row::time(&beaten, "clock")?;
                    Orders::Drain { left: deadline.map(|deadline| deadline.since(clock)) }
                }
            })
        })
        .await
    }

    /// Says where a worker stands in its own tenure. One that has stopped holds no lease.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if its tenure is over, or [`StoreError::Database`].
    pub async fn set_worker_state(
        &self,
        fence: Fence,
        state: WorkerState,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let updated = sqlx::query(
                "UPDATE workers SET state = $2, \
                 lease_until = CASE WHEN $2 = 'stopped' THEN NULL ELSE lease_until END \
                 WHERE id = $1 AND EXISTS \
                 (SELECT 1 FROM worker_epochs WHERE worker_id = $1 AND epoch = $3)",
            )
            .bind(fence.worker_id.to_string())
            .bind(state.as_str())
            .bind(fence.epoch.0)
            .execute(&mut *tx)
            .await?;
            if updated.rows_affected() == 0 {
                return Err(fence.over());
            }
            let note = Note::new(EventType::of_worker(state), Subject::Worker(fence.worker_id));
            event_log::note(&mut tx, note, now).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Lets a worker start VMs again; asked again, it changes nothing.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn activate_worker(
        &self,
        id: WorkerId,
        now: Timestamp,
    ) -> Result<Worker, StoreError> {
        self.admit(id, Admission::Open, None, now).await
    }

    /// Lets a worker start no more VMs; asked again, it changes nothing. A drain ends with it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn cordon_worker(&self, id: WorkerId, now: Timestamp) -> Result<Worker, StoreError> {
        self.admit(id, Admission::Cordoned, None, now).await
    }

    /// Has a worker's VMs end, those in use after `within`. Asked again, the last word counts.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn drain_worker(
        &self,
        id: WorkerId,
        within: Option<Duration>,
        now: Timestamp,
    ) -> Result<Worker, StoreError> {
        self.admit(id, Admission::Draining { deadline: None }, within, now).await
    }

    async fn admit(
        &self,
        id: WorkerId,
        admission: Admission,
        within: Option<Duration>,
        now: Timestamp,
    ) -> Result<Worker, StoreError> {
        let update = with_clock!(
            self,
            "UPDATE workers SET admission = $2, drain_deadline = ",
            " + CAST($3 AS BIGINT) WHERE id = $1"
        );
        self.change(|| async {
            let mut tx = self.begin().await?;
            let updated = sqlx::query(update)
                .bind(id.to_string())
                .bind(admission.as_str())
                .bind(within.map(millis))
                .execute(&mut *tx)
                .await?;
            if updated.rows_affected() == 0 {
                return Err(StoreError::not_found("worker", id));
            }
            let kind = match admission {
                Admission::Open => EventType::WorkerActive,
                Admission::Cordoned => EventType::WorkerCordoned,
                Admission::Draining { .. } => EventType::WorkerDraining,
            };
            event_log::note(&mut tx, Note::new(kind, Subject::Worker(id)), now).await?;
            Ok(tx.commit().await?)
        })
        .await?;
        self.worker(id).await
    }

    /// One worker.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn worker(&self, id: WorkerId) -> Result<Worker, StoreError> {
        let select = with_clock!(self, "SELECT *, ", " AS clock FROM workers WHERE id = $1");
        let row = self.first(sqlx::query(select).bind(id.to_string())).await?;
        judged(&row.ok_or_else(|| StoreError::not_found("worker", id))?)
    }

    /// Workers, newest first.
    ///
    /// # Errors
    /// [`StoreError::InvalidCursor`] or [`StoreError::Database`].
    pub async fn workers(&self, page: &PageRequest) -> Result<Page<Worker>, StoreError> {
        let (below, rows) = page::bounds::<WorkerId>(page, WorkerId::PREFIX)?;
        let select = with_clock!(
            self,
            "SELECT *, ",
            " AS clock FROM workers WHERE id < $1 ORDER BY id DESC LIMIT $2"
        );
        let found = self.all(sqlx::query(select).bind(below).bind(rows)).await?;
        let workers = found.iter().map(judged).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(workers, page::limit(page), |worker: &Worker| worker.id.to_string()))
    }

    /// Every worker at once, for placing.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn every_worker(&self) -> Result<Vec<Worker>, StoreError> {
        let select = with_clock!(self, "SELECT *, ", " AS clock FROM workers ORDER BY id");
        self.all(sqlx::query(select)).await?.iter().map(judged).collect()
    }
}

async fn upsert(
    tx: &mut Tx,
    store: &Store,
    worker: &Worker,
    lease: Option<Lease>,
) -> Result<(), StoreError> {
    let upsert = with_clock!(
        store,
        "INSERT INTO workers (id, hostname, version, driver, driver_reason, internal_address, \
         templates_json, zone, labels_json, capabilities_json, vcpus, memory_mib, disk_mib, max_vms, \
         allocatable_vcpus, allocatable_memory_mib, allocatable_disk_mib, state, created_at, vms, \
         heartbeat_at, lease_until) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, \
         $19, 0, ",
        ", ",
        " + CAST($20 AS BIGINT)) \
         ON CONFLICT (id) DO UPDATE SET hostname = excluded.hostname, \
         version = excluded.version, driver = excluded.driver, \
         driver_reason = excluded.driver_reason, \
         internal_address = excluded.internal_address, \
         templates_json = excluded.templates_json, zone = excluded.zone, \
         labels_json = excluded.labels_json, capabilities_json = excluded.capabilities_json, \
         vcpus = excluded.vcpus, memory_mib = excluded.memory_mib, disk_mib = excluded.disk_mib, \
         max_vms = excluded.max_vms, allocatable_vcpus = excluded.allocatable_vcpus, \
         allocatable_memory_mib = excluded.allocatable_memory_mib, \
         allocatable_disk_mib = excluded.allocatable_disk_mib, state = excluded.state, \
         heartbeat_at = excluded.heartbeat_at, lease_until = excluded.lease_until, gone_at = NULL"
    );
    sqlx::query(upsert)
        .bind(worker.id.to_string())
        .bind(&worker.hostname)
        .bind(&worker.version)
        .bind(worker.driver.map(|driver| driver.as_str()))
        .bind(&worker.driver_reason)
        .bind(&worker.internal_address)
        .bind(row::to_json(&worker.templates)?)
        .bind(worker.zone.as_ref().map(ToString::to_string))
        .bind(row::to_json(&worker.labels)?)
        .bind(row::to_json(&worker.capabilities)?)
        .bind(i64::from(worker.capacity.vcpus))
        .bind(mib(worker.capacity.memory_mib))
        .bind(mib(worker.capacity.disk_mib))
        .bind(i64::from(worker.capacity.vms))
        .bind(i64::from(worker.allocatable.vcpus))
        .bind(mib(worker.allocatable.memory_mib))
        .bind(mib(worker.allocatable.disk_mib))
        .bind(worker.state.as_str())
        .bind(worker.created_at.as_millis())
        .bind(lease.map(|lease| millis(lease.granted())))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A worker as it stands when its row is read with the database's clock: one that is silent for longer
/// than its lease is gone, whatever it said last.
fn judged(from: &AnyRow) -> Result<Worker, StoreError> {
    let mut worker = decode(from)?;
    let now = row::time(from, "clock")?;
    let lapsed = row::maybe_time(from, "lease_until")?.is_some_and(|until| until < now);
    let lives = !matches!(worker.state, WorkerState::Stopped | WorkerState::Gone);
    if lapsed && lives {
        worker.state = WorkerState::Gone;
    }
    Ok(worker)
}

/// A worker as its row has it.
pub(crate) fn decode(from: &AnyRow) -> Result<Worker, StoreError> {
    let (admission, reserved) = (admission(from)?, reserved(from)?);
    let state = match (row::word(from, "state")?, admission) {
        (WorkerState::Active, Admission::Cordoned) => WorkerState::Cordoned,
        (WorkerState::Active, Admission::Draining { .. }) if reserved.vms == 0 => {
            WorkerState::Drained
        }
        (WorkerState::Active, Admission::Draining { .. }) => WorkerState::Draining,
        (state, _) => state,
    };
    let vms = row::number(from, "max_vms")?;
    Ok(Worker {
        id: row::parsed(from, "id")?,
        hostname: row::text(from, "hostname")?,
        version: row::text(from, "version")?,
        driver: row::maybe_word(from, "driver")?,
        driver_reason: row::text(from, "driver_reason")?,
        internal_address: row::text(from, "internal_address")?,
        templates: row::json(from, "templates_json")?,
        zone: row::maybe_parsed(from, "zone")?,
        labels: row::json(from, "labels_json")?,
        capabilities: row::json(from, "capabilities_json")?,
        capacity: Room {
            vcpus: row::number(from, "vcpus")?,
            memory_mib: row::number(from, "memory_mib")?,
            disk_mib: row::number(from, "disk_mib")?,
            vms,
        },
        allocatable: Room {
            vcpus: row::number(from, "allocatable_vcpus")?,
            memory_mib: row::number(from, "allocatable_memory_mib")?,
            disk_mib: row::number(from, "allocatable_disk_mib")?,
            vms,
        },
        reserved,
        usage: row::maybe_json(from, "usage_json")?.unwrap_or_default(),
        admission,
        state,
        created_at: row::time(from, "created_at")?,
        heartbeat_at: row::time(from, "heartbeat_at")?,
    })
}

fn admission(from: &AnyRow) -> Result<Admission, StoreError> {
    match row::text(from, "admission")?.as_str() {
        "open" => Ok(Admission::Open),
        "cordoned" => Ok(Admission::Cordoned),
        "draining" => {
            Ok(Admission::Draining { deadline: row::maybe_time(from, "drain_deadline")? })
        }
        other => Err(StoreError::Corrupt {
            column: "admission".to_owned(),
            problem: format!("{other:?} is not open, cordoned or draining"),
        }),
    }
}

/// What is reserved of a worker. Less than nothing is a count gone wrong, until it is put right.
pub(crate) fn reserved(from: &AnyRow) -> Result<Room, StoreError> {
    let counted = |column| Ok::<_, StoreError>(row::int(from, column)?.max(0).unsigned_abs());
    let few = |column| Ok::<_, StoreError>(u32::try_from(counted(column)?).unwrap_or(u32::MAX));
    Ok(Room {
        vcpus: few("reserved_vcpus")?,
        memory_mib: counted("reserved_memory_mib")?,
        disk_mib: counted("reserved_disk_mib")?,
        vms: few("vms")?,
    })
}
