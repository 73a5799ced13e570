//! Webhooks: who is told of which events. Their secrets are kept here, and nowhere else.
//!
//! The one place where a secret goes into the database and comes out of it is [`seal`] and
//! [`unseal`]: encrypted, but for those of versions before secrets were.

use crate::{Store, StoreError, page, rotation::Stale, row, transact::Tx};
use aetherium_model::{
    Timestamp, WebhookId,
    event::EventFilter,
    page::{Page, PageRequest},
    webhook::{Webhook, WebhookSecret, WebhookState},
};
use aetherium_secrets::{Binding, MasterKeys, SealError, Sealed};
use sqlx::any::AnyRow;

/// Webhooks that there may be.
const MAX_WEBHOOKS: i64 = 100;

/// What is to be changed about a webhook; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChangeWebhook {
    /// Where events are posted to.
    pub url: Option<String>,
    /// Which events.
    pub filter: Option<EventFilter>,
    /// Whether it is told. Making a paused one active begins with what happens from then on, and
    /// a disabled one goes on where it was left.
    pub active: Option<bool>,
}

impl Store {
    /// Adds a webhook, which is told of what happens from now on.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if there are as many as there may be, [`StoreError::NoKeys`] or
    /// [`StoreError::Database`].
    pub async fn create_webhook(
        &self,
        webhook: &Webhook,
        secret: &WebhookSecret,
    ) -> Result<Webhook, StoreError> {
        let sealed = seal(secret, webhook.id, self.keys()?)?;
        let reached = self.newest_event().await?;
        self.change(|| async {
            let mut tx = self.begin().await?;
            let counted = sqlx::query("SELECT COUNT(*) AS webhooks FROM webhooks");
            if row::int(&counted.fetch_one(&mut *tx).await?, "webhooks")? >= MAX_WEBHOOKS {
                return Err(StoreError::Conflict {
                    detail: format!("there are {MAX_WEBHOOKS} webhooks, which is as many as may"),
                    remedy: "delete one that is not needed",
                });
            }
            let webhook = Webhook { reached, ..webhook.clone() };
            sqlx::query(
                "INSERT INTO webhooks (id, url, filter_json, secret, state, state_json, reached, \
                 failures, created_at, updated_at, secret_key_id) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            )
            .bind(webhook.id.to_string())
            .bind(&webhook.url)
            .bind(row::to_json(&webhook.filter)?)
            .bind(&sealed.envelope)
            .bind(webhook.state.as_str())
            .bind(row::to_json(&webhook.state)?)
            .bind(webhook.reached)
            .bind(i64::from(webhook.failures))
            .bind(webhook.created_at.as_millis())
            .bind(webhook.updated_at.as_millis())
            .bind(sealed.key_id.as_str())
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(webhook)
        })
        .await
    }

    /// One webhook.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn webhook(&self, id: WebhookId) -> Result<Webhook, StoreError> {
        let row = self
            .first(sqlx::query("SELECT * FROM webhooks WHERE id = $1").bind(id.to_string()))
            .await?;
        decode(&row.ok_or_else(|| StoreError::not_found("webhook", id))?)
    }

    /// Webhooks, newest first.
    ///
    /// # Errors
    /// [`StoreError::InvalidCursor`] or [`StoreError::Database`].
    pub async fn webhooks(&self, page: &PageRequest) -> Result<Page<Webhook>, StoreError> {
        let (below, rows) = page::bounds::<WebhookId>(page, WebhookId::PREFIX)?;
        let found = self
            .all(
                sqlx::query("SELECT * FROM webhooks WHERE id < $1 ORDER BY id DESC LIMIT $2")
                    .bind(below)
                    .bind(rows),
            )
            .await?;
        let webhooks = found.iter().map(decode).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(webhooks, page::limit(page), |it: &Webhook| it.id.to_string()))
    }

    /// Changes a webhook. Its deliveries stay, and go to its new address.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn change_webhook(
        &self,
        id: WebhookId,
        change: &ChangeWebhook,
        now: Timestamp,
    ) -> Result<Webhook, StoreError> {
        let newest = self.newest_event().await?;
        self.change(|| async {
            let mut tx = self.begin().await?;
            let mut webhook =
                hold(&mut tx, id).await?.ok_or_else(|| StoreError::not_found("webhook", id))?;
            if let Some(url) = &change.url {
                webhook.url.clone_from(url);
            }
            if let Some(filter) = &change.filter {
                webhook.filter = filter.clone();
            }
            match change.active {
                Some(true) => {
                    if webhook.state == WebhookState::Paused {
                        webhook.reached = newest;
                    }
                    (webhook.state, webhook.failures) = (WebhookState::Active, 0);
                }
                Some(false) => webhook.state = WebhookState::Paused,
                None => {}
            }
            webhook.updated_at = now;
            write(&mut tx, &webhook).await?;
            tx.commit().await?;
            Ok(webhook)
        })
        .await
    }

    /// Removes a webhook with its deliveries.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn delete_webhook(&self, id: WebhookId) -> Result<(), StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            let deleted = sqlx::query("DELETE FROM webhooks WHERE id = $1")
                .bind(id.to_string())
                .execute(&mut *tx)
                .await?;
            if deleted.rows_affected() == 0 {
                return Err(StoreError::not_found("webhook", id));
            }
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Every webhook that is told of events; there are few.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn active_webhooks(&self) -> Result<Vec<Webhook>, StoreError> {
        let active = "SELECT * FROM webhooks WHERE state = 'active' ORDER BY id";
        self.all(sqlx::query(active)).await?.iter().map(decode).collect()
    }

    /// What signs a webhook's deliveries.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::NoKeys`], [`StoreError::Sealed`] or
    /// [`StoreError::Database`].
    pub async fn webhook_secret(&self, id: WebhookId) -> Result<WebhookSecret, StoreError> {
        let row = self
            .first(sqlx::query("SELECT * FROM webhooks WHERE id = $1").bind(id.to_string()))
            .await?;
        unseal(&row.ok_or_else(|| StoreError::not_found("webhook", id))?, self.keys()?)
    }
}

/// Reads a webhook and holds its row until the transaction ends.
pub(crate) async fn hold(tx: &mut Tx, id: WebhookId) -> Result<Option<Webhook>, StoreError> {
    let row = sqlx::query("UPDATE webhooks SET id = id WHERE id = $1 RETURNING *")
        .bind(id.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    row.as_ref().map(decode).transpose()
}

/// Writes all of a webhook that changes. Its row is held.
pub(crate) async fn write(tx: &mut Tx, webhook: &Webhook) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE webhooks SET url = $2, filter_json = $3, state = $4, state_json = $5, \
         reached = $6, failures = $7, updated_at = $8 WHERE id = $1",
    )
    .bind(webhook.id.to_string())
    .bind(&webhook.url)
    .bind(row::to_json(&webhook.filter)?)
    .bind(webhook.state.as_str())
    .bind(row::to_json(&webhook.state)?)
    .bind(webhook.reached)
    .bind(i64::from(webhook.failures))
    .bind(webhook.updated_at.as_millis())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The secret as the database keeps it.
fn seal(secret: &WebhookSecret, id: WebhookId, keys: &MasterKeys) -> Result<Sealed, SealError> {
    keys.seal(secret.reveal().as_bytes(), &binding(id))
}

pub(crate) fn unseal(from: &AnyRow, keys: &MasterKeys) -> Result<WebhookSecret, StoreError> {
    let Some(sealed) = sealed(from)? else {
        return row::text(from, "secret").map(WebhookSecret::kept);
    };
    let value = keys.open(&sealed, &binding(row::parsed(from, "id")?))?;
    let text = value.reveal_text().ok_or(SealError::Malformed)?;
    Ok(WebhookSecret::kept(text.to_owned()))
}

/// The secret under the newest key, for [`crate::rotation`].
pub(crate) fn rewrap(from: &AnyRow, keys: &MasterKeys) -> Result<Stale, StoreError> {
    let id: WebhookId = row::parsed(from, "id")?;
    let before = row::text(from, "secret")?;
    let after = match sealed(from)? {
        Some(sealed) => keys.rewrap(&sealed, &binding(id)),
        None => seal(&WebhookSecret::kept(before.clone()), id, keys),
    };
    Ok(Stale { id: id.to_string(), before, after })
}

/// The envelope, unless the row was written before there were any.
fn sealed(from: &AnyRow) -> Result<Option<Sealed>, StoreError> {
    let Some(key_id) = row::maybe_parsed(from, "secret_key_id")? else { return Ok(None) };
    Ok(Some(Sealed { key_id, envelope: row::text(from, "secret")? }))
}

fn binding(id: WebhookId) -> Binding {
    Binding::to(["webhook", &id.to_string()])
}

fn decode(from: &AnyRow) -> Result<Webhook, StoreError> {
    Ok(Webhook {
        id: row::parsed(from, "id")?,
        url: row::text(from, "url")?,
        filter: row::json(from, "filter_json")?,
        state: row::json(from, "state_json")?,
        reached: row::int(from, "reached")?,
        failures: row::number(from, "failures")?,
        created_at: row::time(from, "created_at")?,
        updated_at: row::time(from, "updated_at")?,
    })
}
