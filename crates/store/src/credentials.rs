//! What assistants' logins left: one secret of each assistant and project, in a scope of its own, so that
//! no prompt can ask for it by name and no other secret takes its place.
//!
//! Several VMs may renew one assistant's credentials at once. So a renewal says which ones it is of, and takes
//! effect only where they are still those.

use crate::{
    RunRef, Store, StoreError, event_log, row,
    secrets::{self, Place, Row, noted},
    transact::Tx,
};
use aetherium_model::{
    SecretId, Timestamp, VmId,
    assistant::AssistantName,
    event::{EventData, EventType},
    login::Credentials,
    project::ProjectId,
    secret::{Secret, SecretKind, SecretName},
};
use aetherium_secrets::SecretValue;

const PROJECT_OF: &str = "SELECT project FROM vms WHERE id = $1";

/// Credentials, and which ones they are.
#[derive(Debug)]
pub struct StoredCredentials {
    /// What they are.
    pub value: SecretValue,
    /// Which ones.
    pub generation: Generation,
}

/// Tells credentials from those that come after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(Timestamp);

/// What is known of credentials by whoever has others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// It does not matter which there were: somebody has just logged in.
    Any,
    /// There must be these.
    These(Generation),
}

impl Store {
    /// An assistant's credentials in the project of a VM, to be given to that. That they were read is in the event
    /// log before anybody has them.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without such a VM, [`StoreError::NoKeys`], [`StoreError::Sealed`],
    /// [`StoreError::Fenced`] or [`StoreError::Database`].
    pub async fn read_credentials(
        &self,
        assistant: &AssistantName,
        vm: VmId,
        run: Option<RunRef>,
        now: Timestamp,
    ) -> Result<Option<StoredCredentials>, StoreError> {
        let name = name_of(assistant)?;
        let found = self
            .change(|| async {
                let mut tx = self.begin_fenced().await?;
                let place = place_of(&mut tx, vm).await?;
                let found = sqlx::query("SELECT * FROM secrets WHERE scope = $1 AND name = $2")
                    .bind(&place.scope)
                    .bind(name.as_str())
                    .fetch_optional(&mut *tx)
                    .await?;
                let Some(found) = found.as_ref().map(Row::decode).transpose()? else {
                    return Ok(None);
                };
                let note = noted(EventType::SecretRead, &found.secret).with(EventData {
                    run_id: run.map(|run| run.to_string()),
                    vm_id: Some(vm),
                    ..secrets::named(&found.secret)
                });
                event_log::note(&mut tx, note, now).await?;
                tx.commit().await?;
                Ok(Some(found))
            })
            .await?;
        found.map(|found| self.open_credentials(&found)).transpose()
    }

    /// The same for whoever compares them with what the VM has already, and gives it nothing.
    ///
    /// # Errors
    /// As [`Store::read_credentials`].
    pub async fn compare_credentials(
        &self,
        assistant: &AssistantName,
        vm: VmId,
    ) -> Result<Option<StoredCredentials>, StoreError> {
        let project = self.first(sqlx::query(PROJECT_OF).bind(vm.to_string())).await?;
        let project = project.ok_or_else(|| StoreError::not_found("VM", vm))?;
        let found = self
            .first(
                sqlx::query("SELECT * FROM secrets WHERE scope = $1 AND name = $2")
                    .bind(scope_of(&row::parsed(&project, "project")?))
                    .bind(name_of(assistant)?.to_string()),
            )
            .await?;
        let found = found.as_ref().map(Row::decode).transpose()?;
        found.map(|found| self.open_credentials(&found)).transpose()
    }

    fn open_credentials(&self, found: &Row) -> Result<StoredCredentials, StoreError> {
        let value = self.keys()?.open(&found.sealed, &found.binding())?;
        Ok(StoredCredentials { value, generation: Generation(found.secret.updated_at) })
    }

    /// Stores an assistant's credentials that a VM has, for its project. Returns which ones they are now;
    /// `None`, with nothing changed, where those before are not `before`.
    ///
    /// # Errors
    /// As [`Store::read_credentials`].
    pub async fn put_credentials(
        &self,
        assistant: &AssistantName,
        vm: VmId,
        value: &SecretValue,
        before: Before,
        now: Timestamp,
    ) -> Result<Option<Generation>, StoreError> {
        let (keys, name) = (self.keys()?, name_of(assistant)?);
        self.change(|| async {
            let mut tx = self.begin_fenced().await?;
            let place = place_of(&mut tx, vm).await?;
            let held = secrets::hold(&mut tx, &place, &name).await?;
            let is_as_said = match (before, &held) {
                (Before::Any, _) => true,
                (Before::These(generation), Some(held)) => generation.0 == held.updated_at,
                (Before::These(_), None) => false,
            };
            if !is_as_said {
                return Ok(None);
            }
            let id = held.as_ref().map_or_else(SecretId::new, |held| held.id);
            let kind = SecretKind::File;
            let sealed = keys.seal(value.reveal(), &place.binding(id, &name, kind))?;
            // Two in one millisecond are still two.
            let after = |held: &Secret| Timestamp::from_millis(held.updated_at.as_millis() + 1);
            let secret = Secret {
                id,
                name: name.clone(),
                kind,
                workspace_id: None,
                key_id: sealed.key_id.to_string(),
                created_at: held.as_ref().map_or(now, |held| held.created_at),
                updated_at: held.as_ref().map_or(now, |held| now.max(after(held))),
            };
            match held {
                Some(_) => secrets::replace(&mut tx, &secret, &sealed).await?,
                None => secrets::insert(&mut tx, &place, &secret, &sealed).await?,
            }
            event_log::note(&mut tx, noted(EventType::SecretSet, &secret), now).await?;
            tx.commit().await?;
            Ok(Some(Generation(secret.updated_at)))
        })
        .await
    }

    /// Whose credentials the project has, by name.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn credentials(&self) -> Result<Vec<Credentials>, StoreError> {
        let all = "SELECT * FROM secrets WHERE scope = $1 ORDER BY name";
        let rows = self.all(sqlx::query(all).bind(scope_of(&self.by.project))).await?;
        let decode = |found: &_| {
            Ok(Credentials {
                assistant: assistant_of(&row::text(found, "name")?)?,
                created_at: row::time(found, "created_at")?,
                updated_at: row::time(found, "updated_at")?,
            })
        };
        rows.iter().map(decode).collect()
    }

    /// Forgets an assistant's credentials.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn forget_credentials(
        &self,
        assistant: &AssistantName,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let name = name_of(assistant)?;
        self.change(|| async {
            let mut tx = self.begin().await?;
            let scope = scope_of(&tx.by.project);
            let missing = || StoreError::not_found("credentials of assistant", assistant);
            let deleted = secrets::remove(&mut tx, &scope, &name).await?.ok_or_else(missing)?;
            event_log::note(&mut tx, noted(EventType::SecretDeleted, &deleted), now).await?;
            Ok(tx.commit().await?)
        })
        .await
    }
}

/// A secret's name has no `-`, and an assistant's no `_`.
fn name_of(assistant: &AssistantName) -> Result<SecretName, StoreError> {
    let name = assistant.as_str().replace('-', "_");
    name.parse().map_err(|error| row::corrupt("name", error))
}

fn assistant_of(name: &str) -> Result<AssistantName, StoreError> {
    name.replace('_', "-").parse().map_err(|error| row::corrupt("name", error))
}

fn scope_of(project: &ProjectId) -> String {
    format!("logins:{}", project.as_str())
}

async fn place_of(tx: &mut Tx, vm: VmId) -> Result<Place, StoreError> {
    let found = sqlx::query(PROJECT_OF).bind(vm.to_string()).fetch_optional(&mut **tx).await?;
    let found = found.ok_or_else(|| StoreError::not_found("VM", vm))?;
    let project: ProjectId = row::parsed(&found, "project")?;
    Ok(Place { scope: scope_of(&project), workspace_id: None })
}
