//! Secrets: kept encrypted, written by their owners, read by workers for one run at a time.
//!
//! A value goes into the database in an envelope that is bound to its row's id, scope, name and kind,
//! and comes out of it in [`Store::read_secrets`] alone, which says so in the event log first. Listing
//! reads no envelope.

use crate::{
    RunRef, Store, StoreError,
    event_log::{self, Note},
    page, row,
    transact::Tx,
};
use aetherium_model::{
    SecretId, Timestamp, VmId, WorkspaceId,
    event::{EventData, EventType, Subject},
    page::{Page, PageRequest},
    project::ProjectId,
    secret::{Secret, SecretKind, SecretName, SecretScope, SecretUses},
};
use aetherium_secrets::{Binding, KeyId, MasterKeys, Sealed, SecretValue};
use sqlx::any::AnyRow;
use std::sync::Arc;

/// Secrets that one workspace, or one project, may have.
const MAX_SECRETS: i64 = 500;

/// A secret that a run gets.
#[derive(Debug)]
pub struct ReadSecret {
    /// The variable it is for.
    pub variable: SecretName,
    /// What is known of it.
    pub secret: Secret,
    /// Its value.
    pub value: SecretValue,
}

impl Store {
    /// The same database, with the keys that its secrets are encrypted with.
    #[must_use]
    pub fn with_keys(self, keys: MasterKeys) -> Self {
        Self { keys: Some(Arc::new(keys)), ..self }
    }

    /// The master keys, for what is encrypted outside of the database, too.
    ///
    /// # Errors
    /// [`StoreError::NoKeys`].
    pub fn keys(&self) -> Result<&MasterKeys, StoreError> {
        self.keys.as_deref().ok_or(StoreError::NoKeys)
    }

    /// Gives a secret its value: a new one, or in place of the one it had.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without such a workspace, [`StoreError::Conflict`] if there are as many
    /// as may be or another call makes one of this name, [`StoreError::NoKeys`], [`StoreError::Sealed`]
    /// or [`StoreError::Database`].
    pub async fn put_secret(
        &self,
        scope: SecretScope,
        name: &SecretName,
        kind: SecretKind,
        value: &SecretValue,
        now: Timestamp,
    ) -> Result<Secret, StoreError> {
        let keys = self.keys()?;
        self.change(|| async {
            let mut tx = self.begin().await?;
            let place = Place::of(&mut tx, scope).await?;
            let before = hold(&mut tx, &place, name).await?;
            let (id, created_at) =
                before.as_ref().map_or_else(|| (SecretId::new(), now), |it| (it.id, it.created_at));
            let sealed = keys.seal(value.reveal(), &place.binding(id, name, kind))?;
            let secret = Secret {
                id,
                name: name.clone(),
                kind,
                workspace_id: place.workspace_id,
                key_id: sealed.key_id.to_string(),
                created_at,
                updated_at: now,
            };
            match before {
                Some(_) => replace(&mut tx, &secret, &sealed).await?,
                None => insert(&mut tx, &place, &secret, &sealed).await?,
            }
            event_log::note(&mut tx, noted(EventType::SecretSet, &secret), now).await?;
            tx.commit().await?;
            Ok(secret)
        })
        .await
    }

    /// The secrets of a workspace or of the project, newest first.
    ///
    /// # Errors
    /// [`StoreError::InvalidCursor`] or [`StoreError::Database`].
    pub async fn secrets(
        &self,
        scope: SecretScope,
        page: &PageRequest,
    ) -> Result<Page<Secret>, StoreError> {
        let (below, rows) = page::bounds::<SecretId>(page, SecretId::PREFIX)?;
        let found = self
            .all(
                sqlx::query(
                    "SELECT * FROM secrets WHERE scope = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
                )
                .bind(scope_text(scope, &self.by.project))
                .bind(below)
                .bind(rows),
            )
            .await?;
        let secrets = found.iter().map(decode).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(secrets, page::limit(page), |it: &Secret| it.id.to_string()))
    }

    /// Removes a secret.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn delete_secret(
        &self,
        scope: SecretScope,
        name: &SecretName,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let scope = scope_text(scope, &tx.by.project);
            let deleted = remove(&mut tx, &scope, name).await?;
            let deleted = deleted.ok_or_else(|| StoreError::not_found("secret", name))?;
            event_log::note(&mut tx, noted(EventType::SecretDeleted, &deleted), now).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// The values that `run` gets in `vm`: of each name its workspace's secret, else the project's. That
    /// they were read is in the event log before anybody has them.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without such a VM, [`StoreError::SecretMissing`],
    /// [`StoreError::NoKeys`], [`StoreError::Sealed`] or [`StoreError::Database`].
    pub async fn read_secrets(
        &self,
        run: RunRef,
        vm: VmId,
        uses: &SecretUses,
        now: Timestamp,
    ) -> Result<Vec<ReadSecret>, StoreError> {
        let keys = self.keys()?;
        let found = self
            .change(|| async {
                // A worker that is taken for gone gets nothing any more.
                let mut tx = self.begin_fenced().await?;
                let scopes = scopes_of(&mut tx, vm).await?;
                let mut found = Vec::with_capacity(uses.len());
                for (variable, name) in uses.iter() {
                    let row = find(&mut tx, &scopes, name).await?;
                    let data = EventData {
                        run_id: Some(run.to_string()),
                        vm_id: Some(vm),
                        ..named(&row.secret)
                    };
                    let note = noted(EventType::SecretRead, &row.secret).with(data);
                    event_log::note(&mut tx, note, now).await?;
                    found.push((variable.clone(), row));
                }
                tx.commit().await?;
                Ok(found)
            })
            .await?;
        let open = |(variable, row): (SecretName, Row)| {
            let value = keys.open(&row.sealed, &row.binding())?;
            Ok(ReadSecret { variable, secret: row.secret, value })
        };
        found.into_iter().map(open).collect()
    }
}

/// Where a secret belongs.
pub(crate) struct Place {
    pub(crate) scope: String,
    pub(crate) workspace_id: Option<WorkspaceId>,
}

impl Place {
    /// The place of a scope, whose workspace is there.
    async fn of(tx: &mut Tx, scope: SecretScope) -> Result<Self, StoreError> {
        let workspace_id = match scope {
            SecretScope::Project => None,
            SecretScope::Workspace(id) => {
                let held = sqlx::query("UPDATE workspaces SET name = name WHERE id = $1")
                    .bind(id.to_string())
                    .execute(&mut **tx)
                    .await?;
                if held.rows_affected() == 0 {
                    return Err(StoreError::not_found("workspace", id));
                }
                Some(id)
            }
        };
        Ok(Self { scope: scope_text(scope, &tx.by.project), workspace_id })
    }

    pub(crate) fn binding(&self, id: SecretId, name: &SecretName, kind: SecretKind) -> Binding {
        binding(id, &self.scope, name, kind)
    }
}

fn scope_text(scope: SecretScope, project: &ProjectId) -> String {
    match scope {
        SecretScope::Project => format!("project:{}", project.as_str()),
        SecretScope::Workspace(id) => id.to_string(),
    }
}

fn binding(id: SecretId, scope: &str, name: &SecretName, kind: SecretKind) -> Binding {
    Binding::to(["secret", &id.to_string(), scope, name.as_str(), kind.as_str()])
}

/// A row with its envelope.
pub(crate) struct Row {
    pub(crate) secret: Secret,
    pub(crate) sealed: Sealed,
    scope: String,
}

impl Row {
    pub(crate) fn binding(&self) -> Binding {
        binding(self.secret.id, &self.scope, &self.secret.name, self.secret.kind)
    }

    pub(crate) fn decode(from: &AnyRow) -> Result<Self, StoreError> {
        let key_id: KeyId = row::parsed(from, "key_id")?;
        let sealed = Sealed { key_id, envelope: row::text(from, "envelope")? };
        Ok(Self { secret: decode(from)?, sealed, scope: row::text(from, "scope")? })
    }
}

/// Where a VM's runs find secrets: in its workspace, and in its project.
async fn scopes_of(tx: &mut Tx, vm: VmId) -> Result<[String; 2], StoreError> {
    let row = sqlx::query("SELECT project, workspace_id FROM vms WHERE id = $1")
        .bind(vm.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    let row = row.ok_or_else(|| StoreError::not_found("VM", vm))?;
    let project = scope_text(SecretScope::Project, &row::parsed(&row, "project")?);
    let own = row::maybe_text(&row, "workspace_id")?;
    Ok([own.unwrap_or_else(|| project.clone()), project])
}

async fn find(tx: &mut Tx, scopes: &[String; 2], name: &SecretName) -> Result<Row, StoreError> {
    let [own, project] = scopes;
    let row = sqlx::query(
        "SELECT * FROM secrets WHERE name = $1 AND scope IN ($2, $3) \
         ORDER BY CASE WHEN scope = $2 THEN 0 ELSE 1 END LIMIT 1",
    )
    .bind(name.as_str())
    .bind(own)
    .bind(project)
    .fetch_optional(&mut **tx)
    .await?;
    let row = row.ok_or_else(|| StoreError::SecretMissing { name: name.clone() })?;
    Row::decode(&row)
}

/// Reads what is known of a secret and holds its row until the transaction ends.
pub(crate) async fn hold(
    tx: &mut Tx,
    place: &Place,
    name: &SecretName,
) -> Result<Option<Secret>, StoreError> {
    let held =
        sqlx::query("UPDATE secrets SET name = name WHERE scope = $1 AND name = $2 RETURNING *")
            .bind(&place.scope)
            .bind(name.as_str())
            .fetch_optional(&mut **tx)
            .await?;
    held.as_ref().map(decode).transpose()
}

/// Removes a secret's row, and says what it was.
pub(crate) async fn remove(
    tx: &mut Tx,
    scope: &str,
    name: &SecretName,
) -> Result<Option<Secret>, StoreError> {
    let deleted = sqlx::query("DELETE FROM secrets WHERE scope = $1 AND name = $2 RETURNING *")
        .bind(scope)
        .bind(name.as_str())
        .fetch_optional(&mut **tx)
        .await?;
    deleted.as_ref().map(decode).transpose()
}

pub(crate) async fn replace(
    tx: &mut Tx,
    secret: &Secret,
    sealed: &Sealed,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE secrets SET kind = $2, key_id = $3, envelope = $4, updated_at = $5 WHERE id = $1",
    )
    .bind(secret.id.to_string())
    .bind(secret.kind.as_str())
    .bind(sealed.key_id.as_str())
    .bind(&sealed.envelope)
    .bind(secret.updated_at.as_millis())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(crate) async fn insert(
    tx: &mut Tx,
    place: &Place,
    secret: &Secret,
    sealed: &Sealed,
) -> Result<(), StoreError> {
    let counted = sqlx::query("SELECT COUNT(*) AS secrets FROM secrets WHERE scope = $1")
        .bind(&place.scope)
        .fetch_one(&mut **tx)
        .await?;
    if row::int(&counted, "secrets")? >= MAX_SECRETS {
        return Err(StoreError::Conflict {
            detail: format!("there are {MAX_SECRETS} secrets, which is as many as may"),
            remedy: "delete one that is not needed",
        });
    }
    let inserted = sqlx::query(
        "INSERT INTO secrets (id, scope, workspace_id, name, kind, key_id, envelope, created_at, \
         updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
         ON CONFLICT (scope, name) DO NOTHING",
    )
    .bind(secret.id.to_string())
    .bind(&place.scope)
    .bind(place.workspace_id.map(|id| id.to_string()))
    .bind(secret.name.as_str())
    .bind(secret.kind.as_str())
    .bind(sealed.key_id.as_str())
    .bind(&sealed.envelope)
    .bind(secret.created_at.as_millis())
    .bind(secret.updated_at.as_millis())
    .execute(&mut **tx)
    .await?;
    if inserted.rows_affected() == 0 {
        return Err(StoreError::Conflict {
            detail: format!("the secret {} was set by somebody else just now", secret.name),
            remedy: "set it again",
        });
    }
    Ok(())
}

pub(crate) fn named(secret: &Secret) -> EventData {
    EventData { secret: Some(secret.name.clone()), ..EventData::default() }
}

pub(crate) fn noted(kind: EventType, secret: &Secret) -> Note {
    Note::new(kind, Subject::Secret(secret.id)).within(secret.workspace_id).with(named(secret))
}

fn decode(from: &AnyRow) -> Result<Secret, StoreError> {
    Ok(Secret {
        id: row::parsed(from, "id")?,
        name: row::parsed(from, "name")?,
        kind: row::parsed(from, "kind")?,
        workspace_id: row::maybe_parsed(from, "workspace_id")?,
        key_id: row::text(from, "key_id")?,
        created_at: row::time(from, "created_at")?,
        updated_at: row::time(from, "updated_at")?,
    })
}
