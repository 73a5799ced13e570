//! Deliveries of events to webhooks: made from the log once each, handed out to one sender at a
//! time, and kept for a while as the record of what was told to whom.

use crate::{Store, StoreError, page, row, transact::Tx, webhooks};
use aetherium_model::{
    DeliveryId, Timestamp, WebhookId,
    event::Event,
    page::{Page, PageRequest},
    webhook::{Delivery, DeliveryState, MAX_FAILURES, Refusal, Verdict, Webhook, WebhookState},
};
use sqlx::any::AnyRow;
use std::time::Duration;

/// Events that become deliveries of one webhook in one transaction.
const SPREAD: u32 = 100;
/// Deliveries of one webhook that may wait; the log is read on for it when there are fewer.
const MAX_PENDING: i64 = 1000;
/// How long a finished delivery is kept.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Finished deliveries that are kept, of all webhooks.
const MAX_KEPT: i64 = 50_000;

/// A delivery in a sender's hands. Its number of attempts tells the claim from those before and
/// after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The delivery, as it was handed out.
    pub delivery: Delivery,
    /// Where to.
    pub url: String,
}

impl Store {
    /// Makes deliveries of what the log has that a webhook is to be told. Returns whether there
    /// may be more.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn spread_events(&self, id: WebhookId, now: Timestamp) -> Result<bool, StoreError> {
        let Some((webhook, room)) = self.room(id).await? else { return Ok(false) };
        if room == 0 {
            return Ok(false);
        }
        let part = self.history(&webhook.filter, webhook.reached, room).await?;
        if part.reached <= webhook.reached {
            return Ok(false);
        }
        self.change(|| async {
            let mut tx = self.begin().await?;
            let Some(mut held) = webhooks::hold(&mut tx, id).await? else { return Ok(false) };
            // Somebody else was faster, or its owner changed what it is to be told.
            if held != webhook {
                return Ok(true);
            }
            for event in &part.items {
                insert(&mut tx, id, event, now).await?;
            }
            held.reached = part.reached;
            webhooks::write(&mut tx, &held).await?;
            tx.commit().await?;
            Ok(!part.items.is_empty())
        })
        .await
    }

    /// An active webhook, and how many events it may be given now.
    async fn room(&self, id: WebhookId) -> Result<Option<(Webhook, u32)>, StoreError> {
        let webhook = match self.webhook(id).await {
            Ok(webhook) if webhook.state == WebhookState::Active => webhook,
            Ok(_) | Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let waiting = sqlx::query(
            "SELECT COUNT(*) AS pending FROM webhook_deliveries \
             WHERE webhook_id = $1 AND state = 'pending'",
        )
        .bind(id.to_string());
        let pending = match self.first(waiting).await? {
            Some(row) => row::int(&row, "pending")?,
            None => 0,
        };
        let room = u32::try_from(MAX_PENDING.saturating_sub(pending)).unwrap_or(0);
        Ok(Some((webhook, room.min(SPREAD))))
    }

    /// Hands out deliveries of a webhook that are due, oldest first, until `lease_until`: whoever
    /// has one sends it and says what became of it ([`Store::finish_attempt`]); what is not heard of
    /// until then is handed out again.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn claim_deliveries(
        &self,
        webhook: &Webhook,
        now: Timestamp,
        lease_until: Timestamp,
        most: usize,
    ) -> Result<Vec<Attempt>, StoreError> {
        let due = sqlx::query(
            "SELECT id FROM webhook_deliveries WHERE webhook_id = $1 AND state = 'pending' \
             AND next_at <= $2 ORDER BY next_at, id LIMIT $3",
        )
        .bind(webhook.id.to_string())
        .bind(now.as_millis())
        .bind(i64::try_from(most).unwrap_or(i64::MAX));
        let due = self.all(due).await?;
        let mut attempts = Vec::with_capacity(due.len());
        for found in &due {
            let id = row::text(found, "id")?;
            if let Some(delivery) = self.claim_delivery(&id, now, lease_until).await? {
                attempts.push(Attempt { delivery, url: webhook.url.clone() });
            }
        }
        Ok(attempts)
    }

    async fn claim_delivery(
        &self,
        id: &str,
        now: Timestamp,
        lease_until: Timestamp,
    ) -> Result<Option<Delivery>, StoreError> {
        self.change(|| async {
            // A claim that a power cut takes back is made again, and the receiver hears twice.
            let mut tx = self.begin_unsynced().await?;
            let row = sqlx::query(
                "UPDATE webhook_deliveries SET attempts = attempts + 1, next_at = $3 \
                 WHERE id = $1 AND state = 'pending' AND next_at <= $2 RETURNING *",
            )
            .bind(id)
            .bind(now.as_millis())
            .bind(lease_until.as_millis())
            .fetch_optional(&mut *tx)
            .await?;
            let delivery = row.as_ref().map(decode).transpose()?;
            tx.commit().await?;
            Ok(delivery)
        })
        .await
    }

    /// Writes what follows from a try, for the delivery and its webhook. Does nothing if the claim
    /// was lost.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn finish_attempt(
        &self,
        attempt: &Attempt,
        verdict: &Verdict,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let delivery = &attempt.delivery;
        let (state, refusal, next_at) = match verdict {
            Verdict::Delivered => (DeliveryState::Delivered, None, None),
            Verdict::Again(pause, refusal) => {
                (DeliveryState::Pending, Some(refusal), Some(now.after(*pause)))
            }
            Verdict::Dead(refusal) | Verdict::Disable(refusal) => {
                (DeliveryState::Dead, Some(refusal), None)
            }
        };
        self.change(|| async {
            let mut tx = self.begin().await?;
            let written = sqlx::query(
                "UPDATE webhook_deliveries SET state = $3, refusal_json = $4, next_at = $5, \
                 finished_at = $6 WHERE id = $1 AND attempts = $2 AND state = 'pending'",
            )
            .bind(delivery.id.to_string())
            .bind(i64::from(delivery.attempts))
            .bind(state.as_str())
            .bind(refusal.map(row::to_json).transpose()?)
            .bind(next_at.map(Timestamp::as_millis))
            .bind((state != DeliveryState::Pending).then_some(now.as_millis()))
            .execute(&mut *tx)
            .await?;
            if written.rows_affected() == 1 {
                judge(&mut tx, delivery.webhook_id, verdict, now).await?;
            }
            Ok(tx.commit().await?)
        })
        .await
    }

    /// A webhook's deliveries, newest first.
    ///
    /// # Errors
    /// [`StoreError::InvalidCursor`] or [`StoreError::Database`].
    pub async fn deliveries(
        &self,
        webhook_id: WebhookId,
        page: &PageRequest,
    ) -> Result<Page<Delivery>, StoreError> {
        let (below, rows) = page::bounds::<DeliveryId>(page, DeliveryId::PREFIX)?;
        let question = sqlx::query(
            "SELECT * FROM webhook_deliveries WHERE webhook_id = $1 AND id < $2 \
             ORDER BY id DESC LIMIT $3",
        )
        .bind(webhook_id.to_string())
        .bind(below)
        .bind(rows);
        let found = self.all(question).await?;
        let deliveries = found.iter().map(decode).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(deliveries, page::limit(page), |it: &Delivery| it.id.to_string()))
    }

    /// Has a finished delivery sent once more, with as many tries as a new one. One that is still
    /// pending stays as it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Database`].
    pub async fn redeliver(
        &self,
        webhook_id: WebhookId,
        id: DeliveryId,
        now: Timestamp,
    ) -> Result<Delivery, StoreError> {
        self.change(|| async {
            let mut tx = self.begin().await?;
            sqlx::query(
                "UPDATE webhook_deliveries SET state = 'pending', attempts = 0, next_at = $3, \
                 finished_at = NULL WHERE id = $1 AND webhook_id = $2 AND state <> 'pending'",
            )
            .bind(id.to_string())
            .bind(webhook_id.to_string())
            .bind(now.as_millis())
            .execute(&mut *tx)
            .await?;
            let row =
                sqlx::query("SELECT * FROM webhook_deliveries WHERE id = $1 AND webhook_id = $2")
                    .bind(id.to_string())
                    .bind(webhook_id.to_string())
                    .fetch_optional(&mut *tx)
                    .await?;
            let delivery = decode(&row.ok_or_else(|| StoreError::not_found("delivery", id))?)?;
            tx.commit().await?;
            Ok(delivery)
        })
        .await
    }

    /// Forgets deliveries that finished long ago, or are more than are kept.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn prune_deliveries(&self, now: Timestamp) -> Result<u64, StoreError> {
        let age = i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX);
        self.change(|| async {
            let mut tx = self.begin_unsynced().await?;
            let gone = sqlx::query(
                "DELETE FROM webhook_deliveries WHERE finished_at < $1 OR finished_at < \
                 (SELECT finished_at FROM webhook_deliveries WHERE finished_at IS NOT NULL \
                 ORDER BY finished_at DESC LIMIT 1 OFFSET $2)",
            )
            .bind(now.as_millis().saturating_sub(age))
            .bind(MAX_KEPT)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(gone.rows_affected())
        })
        .await
    }
}

/// Counts for or against a webhook, and disables one that failed too often.
async fn judge(
    tx: &mut Tx,
    id: WebhookId,
    verdict: &Verdict,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(before) = webhooks::hold(tx, id).await? else { return Ok(()) };
    let mut webhook = before.clone();
    let disabled = match verdict {
        Verdict::Again(..) => return Ok(()),
        Verdict::Delivered => {
            webhook.failures = 0;
            None
        }
        Verdict::Dead(Refusal { detail, .. }) => {
            webhook.failures = webhook.failures.saturating_add(1);
            let many = webhook.failures >= MAX_FAILURES;
            many.then(|| format!("nobody took {MAX_FAILURES} deliveries in a row: {detail}"))
        }
        Verdict::Disable(Refusal { detail, .. }) => Some(detail.clone()),
    };
    if let Some(reason) = disabled.filter(|_| webhook.state == WebhookState::Active) {
        webhook.state = WebhookState::Disabled { reason };
        webhook.updated_at = now;
    }
    if webhook == before { Ok(()) } else { webhooks::write(tx, &webhook).await }
}

async fn insert(
    tx: &mut Tx,
    webhook_id: WebhookId,
    event: &Event,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO webhook_deliveries (id, webhook_id, event_seq, event_json, state, attempts, \
         next_at, created_at) VALUES ($1, $2, $3, $4, 'pending', 0, $5, $5) \
         ON CONFLICT (webhook_id, event_seq) DO NOTHING",
    )
    .bind(DeliveryId::new().to_string())
    .bind(webhook_id.to_string())
    .bind(event.seq)
    .bind(row::to_json(event)?)
    .bind(now.as_millis())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn decode(from: &AnyRow) -> Result<Delivery, StoreError> {
    Ok(Delivery {
        id: row::parsed(from, "id")?,
        webhook_id: row::parsed(from, "webhook_id")?,
        event: row::json(from, "event_json")?,
        state: row::word(from, "state")?,
        attempts: row::number(from, "attempts")?,
        refusal: row::maybe_json(from, "refusal_json")?,
        next_at: row::maybe_time(from, "next_at")?,
        created_at: row::time(from, "created_at")?,
        finished_at: row::maybe_time(from, "finished_at")?,
    })
}
