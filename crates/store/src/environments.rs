//! Environments: what workspaces are made from, in versions. A workspace has its own copy of what it was made
//! from, so nothing that happens here reaches it.

use crate::{
    Store, StoreError,
    event_log::{self, Note},
    idempotency::{self, Created, Idempotency},
    page, row,
    transact::Tx,
};
use aetherium_model::{
    EnvironmentId, Name, Timestamp,
    environment::{Environment, EnvironmentSpec, KEPT_VERSIONS, MadeFrom},
    event::{EventData, EventType, Subject},
    page::{Page, PageRequest},
};
use sqlx::any::AnyRow;
use std::collections::HashSet;

/// The versions of the environment `$1`, each with what is the same in all of them.
macro_rules! versions {
    ($($narrowed:literal),+) => {
        concat!(
            "SELECT environments.id, environments.name, environments.created_at, \
             environment_versions.version, environment_versions.spec_json, \
             environment_versions.created_at AS updated_at \
             FROM environments JOIN environment_versions ON environment_id = id WHERE id = $1 \
             AND environment_versions.version ",
            $($narrowed),+
        )
    };
}

impl Store {
    /// Writes an environment, as its first version.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the name is taken, [`StoreError::IdempotencyMismatch`] or
    /// [`StoreError::Database`].
    pub async fn create_environment(
        &self,
        environment: &Environment,
        key: Option<&Idempotency>,
    ) -> Result<Created<Environment>, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let (id, now) = (environment.id.to_string(), environment.created_at);
            if let Some(first) = idempotency::take(&mut tx, key, &id, now).await? {
                return first_version(&mut tx, &first).await.map(Created::Existing);
            }
            let project = tx.by.project.clone();
            let inserted = sqlx::query(
                "INSERT INTO environments (id, name, project, version, spec_json, created_at, updated_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (name) DO NOTHING",
            )
            .bind(id)
            .bind(environment.name.as_str())
            .bind(project.as_str())
            .bind(i64::from(environment.version))
            .bind(row::to_json(&environment.spec)?)
            .bind(now.as_millis())
            .bind(environment.updated_at.as_millis())
            .execute(&mut *tx)
            .await?;
            if inserted.rows_affected() == 0 {
                return Err(StoreError::Conflict {
                    detail: format!("an environment named {:?} exists", environment.name.as_str()),
                    remedy: "choose another name, or change that environment",
                });
            }
            keep_version(&mut tx, environment).await?;
            event_log::note(&mut tx, noted(EventType::EnvironmentCreated, environment), now).await?;
            tx.commit().await?;
            Ok(Created::New(environment.clone()))
        })
        .await
    }

    /// The newest version of an environment.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn environment(&self, id: EnvironmentId) -> Result<Environment, StoreError> {
        let row = self
            .first(sqlx::query("SELECT * FROM environments WHERE id = $1").bind(id.to_string()))
            .await?;
        decode(&row.ok_or_else(|| StoreError::not_found("environment", id))?)
    }

    /// The newest version of the environment of a name.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn environment_by_name(&self, name: &Name) -> Result<Environment, StoreError> {
        let row = self
            .first(sqlx::query("SELECT * FROM environments WHERE name = $1").bind(name.as_str()))
            .await?;
        decode(&row.ok_or_else(|| StoreError::not_found("environment", name))?)
    }

    /// Environments in their newest versions, the newest environment first.
    ///
    /// # Errors
    /// [`StoreError::InvalidCursor`] or [`StoreError::Database`].
    pub async fn environments(&self, page: &PageRequest) -> Result<Page<Environment>, StoreError> {
        let (below, rows) = page::bounds::<EnvironmentId>(page, EnvironmentId::PREFIX)?;
        let found = self
            .all(
                sqlx::query("SELECT * FROM environments WHERE id < $1 ORDER BY id DESC LIMIT $2")
                    .bind(below)
                    .bind(rows),
            )
            .await?;
        let environments = found.iter().map(decode).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(environments, page::limit(page), |it: &Environment| it.id.to_string()))
    }

    /// One version of an environment.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn environment_version(
        &self,
        id: EnvironmentId,
        version: u32,
    ) -> Result<Environment, StoreError> {
        let one = sqlx::query(versions!("= $2")).bind(id.to_string()).bind(i64::from(version));
        let row = self.first(one).await?;
        let missing = || StoreError::not_found("version", format!("{version} of environment {id}"));
        decode(&row.ok_or_else(missing)?)
    }

    /// The versions of an environment, newest first. The cursor is a version's number.
    ///
    /// # Errors
    /// [`StoreError::InvalidCursor`] or [`StoreError::Database`].
    pub async fn environment_versions(
        &self,
        id: EnvironmentId,
        page: &PageRequest,
    ) -> Result<Page<Environment>, StoreError> {
        let below = match &page.after {
            None => i64::MAX,
            Some(given) => given.parse::<u32>().map(i64::from).map_err(|_| {
                StoreError::InvalidCursor { given: given.chars().take(64).collect() }
            })?,
        };
        let some = versions!("< $2 ORDER BY environment_versions.version DESC LIMIT $3");
        let rows = i64::from(page::limit(page)) + 1;
        let found = self.all(sqlx::query(some).bind(id.to_string()).bind(below).bind(rows)).await?;
        let versions = found.iter().map(decode).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(versions, page::limit(page), |it: &Environment| it.version.to_string()))
    }

    /// Makes the next version of an environment, if `seen` is the newest: who did not see what another
    /// wrote cannot overwrite it. What it says already makes no version, so that the same change may be
    /// asked for twice. Versions beyond [`KEPT_VERSIONS`] are forgotten.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`] if there is a newer version than `seen`, or
    /// [`StoreError::Database`].
    pub async fn change_environment(
        &self,
        id: EnvironmentId,
        seen: u32,
        spec: &EnvironmentSpec,
        now: Timestamp,
    ) -> Result<Environment, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let before = lock(&mut tx, id).await?;
            if before.spec == *spec {
                return Ok(before);
            }
            if before.version != seen {
                let Environment { name, version, .. } = before;
                return Err(StoreError::Conflict {
                    detail: format!("environment {name} is at version {version}, not at {seen}"),
                    remedy: "read it again, and change what it says now",
                });
            }
            let next = Environment {
                version: before.version + 1,
                spec: spec.clone(),
                updated_at: now,
                ..before
            };
            let update =
                "UPDATE environments SET version = $2, spec_json = $3, updated_at = $4 WHERE id = $1";
            sqlx::query(update)
                .bind(id.to_string())
                .bind(i64::from(next.version))
                .bind(row::to_json(spec)?)
                .bind(now.as_millis())
                .execute(&mut *tx)
                .await?;
            keep_version(&mut tx, &next).await?;
            forget_versions(&mut tx, &next).await?;
            event_log::note(&mut tx, noted(EventType::EnvironmentChanged, &next), now).await?;
            tx.commit().await?;
            Ok(next)
        })
        .await
    }

    /// Removes an environment with its versions.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn delete_environment(
        &self,
        id: EnvironmentId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let last = lock(&mut tx, id).await?;
            sqlx::query("DELETE FROM environments WHERE id = $1")
                .bind(id.to_string())
                .execute(&mut *tx)
                .await?;
            event_log::note(&mut tx, noted(EventType::EnvironmentDeleted, &last), now).await?;
            Ok(tx.commit().await?)
        })
        .await
    }
}

fn noted(kind: EventType, environment: &Environment) -> Note {
    let data = EventData { environment: Some(environment.reference()), ..EventData::default() };
    Note::new(kind, Subject::Environment(environment.id)).with(data)
}

/// What a create made, whatever became of it since.
async fn first_version(tx: &mut Tx, id: &str) -> Result<Environment, StoreError> {
    let first = sqlx::query(versions!("= 1")).bind(id).fetch_optional(&mut **tx).await?;
    decode(&first.ok_or_else(|| StoreError::not_found("environment", id))?)
}

/// Reads an environment and holds its row until the transaction ends.
async fn lock(tx: &mut Tx, id: EnvironmentId) -> Result<Environment, StoreError> {
    let row = sqlx::query("UPDATE environments SET name = name WHERE id = $1 RETURNING *")
        .bind(id.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    decode(&row.ok_or_else(|| StoreError::not_found("environment", id))?)
}

async fn keep_version(tx: &mut Tx, environment: &Environment) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO environment_versions (environment_id, version, spec_json, created_at) \
         VALUES ($1, $2, $3, $4)",
    )
    .bind(environment.id.to_string())
    .bind(i64::from(environment.version))
    .bind(row::to_json(&environment.spec)?)
    .bind(environment.updated_at.as_millis())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Forgets the versions that are too old for being kept. The first is what a create answers that is repeated.
async fn forget_versions(tx: &mut Tx, newest: &Environment) -> Result<(), StoreError> {
    let last = newest.version.saturating_sub(KEPT_VERSIONS);
    if last <= 1 {
        return Ok(());
    }
    let id = newest.id.to_string();
    let old = "SELECT version FROM environment_versions \
               WHERE environment_id = $1 AND version > 1 AND version <= $2";
    let old = sqlx::query(old).bind(&id).bind(i64::from(last)).fetch_all(&mut **tx).await?;
    let in_use = versions_in_use(tx, newest.id).await?;
    for row in &old {
        let version: u32 = row::number(row, "version")?;
        if !in_use.contains(&version) {
            sqlx::query(
                "DELETE FROM environment_versions WHERE environment_id = $1 AND version = $2",
            )
            .bind(&id)
            .bind(i64::from(version))
            .execute(&mut **tx)
            .await?;
        }
    }
    Ok(())
}

/// The versions that workspaces were made from.
async fn versions_in_use(tx: &mut Tx, id: EnvironmentId) -> Result<HashSet<u32>, StoreError> {
    let made = "SELECT DISTINCT environment_json FROM workspaces WHERE environment_json LIKE $1";
    let made = sqlx::query(made).bind(format!("%{id}%")).fetch_all(&mut **tx).await?;
    let made = made.iter().map(|row| row::json::<MadeFrom>(row, "environment_json"));
    let made = made.collect::<Result<Vec<_>, _>>()?;
    Ok(made.into_iter().filter(|it| it.id == id).map(|it| it.version).collect())
}

fn decode(from: &AnyRow) -> Result<Environment, StoreError> {
    Ok(Environment {
        id: row::parsed(from, "id")?,
        name: row::parsed(from, "name")?,
        version: row::number(from, "version")?,
        spec: row::json(from, "spec_json")?,
        created_at: row::time(from, "created_at")?,
        updated_at: row::time(from, "updated_at")?,
    })
}
