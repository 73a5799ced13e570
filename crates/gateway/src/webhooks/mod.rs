//! Telling webhooks of events: every gateway reads the log for them and sends what is due, one
//! delivery in one gateway's hands at a time, under a lease in the store.
//!
//! Nothing is kept here: a gateway that is killed while it sends leaves a delivery whose lease ends,
//! and another one sends it again, under the same id.

mod guard;
mod send;

pub(crate) use guard::Guard;

use crate::{Gateway, gateway::now};
use aetherium_model::{
    WebhookId,
    webhook::{Backoff, Webhook, verdict},
};
use aetherium_queue::Topic;
use aetherium_store::{Attempt, StoreError};
use send::Sender;
use std::{collections::HashMap, time::Duration};
use tokio::{task::JoinSet, time::sleep};

/// Deliveries of one webhook that a gateway sends at once: one slow receiver must not take all.
const PER_WEBHOOK: usize = 4;
/// Deliveries that a gateway sends at once.
const AT_ONCE: usize = 64;
/// Parts of the log that become deliveries of one webhook before the others have their turn.
const PARTS: usize = 10;
/// Without a word from the bus, how long until it is looked for what is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The least time between two looks, however much happens.
const BREATH: Duration = Duration::from_millis(50);

/// How webhooks are told of events.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WebhookPolicy {
    /// Whether they may be at private, loopback and link-local addresses.
    pub allow_private: bool,
    /// What a receiver may take to answer.
    pub timeout: Duration,
    /// How long a gateway has a delivery to itself; longer than `timeout`.
    pub lease: Duration,
    /// How long is waited between tries.
    pub backoff: Backoff,
}

impl Default for WebhookPolicy {
    fn default() -> Self {
        Self {
            allow_private: false,
            timeout: Duration::from_secs(10),
            lease: Duration::from_secs(30),
            backoff: Backoff::default(),
        }
    }
}

/// Sends what is due until the gateway stops.
pub(crate) async fn run(gateway: Gateway) {
    let sender = match Sender::new(&gateway.config().webhooks) {
        Ok(sender) => sender,
        Err(error) => {
            tracing::error!(%error, "webhooks are told nothing: no HTTP client can be made");
            return;
        }
    };
    let mut dispatcher = Dispatcher {
        gateway: gateway.clone(),
        sender,
        sends: JoinSet::new(),
        busy: HashMap::new(),
    };
    let mut subscription = gateway.bus().subscribe(Topic::Anything);
    while !gateway.stopping().is_cancelled() {
        if let Err(error) = dispatcher.look().await {
            tracing::warn!(%error, "what webhooks are to be told could not be read");
        }
        let woken = async {
            tokio::select! {
                _ = subscription.changed(LOOK_EVERY) => {}
                Some(()) = dispatcher.some_sent() => {}
            }
            sleep(BREATH).await;
        };
        let _ = gateway.stopping().run_until_cancelled(woken).await;
    }
    // What is being sent is given up with the set, and its lease ends.
}

struct Dispatcher {
    gateway: Gateway,
    sender: Sender,
    sends: JoinSet<WebhookId>,
    /// Deliveries of each webhook that are being sent here.
    busy: HashMap<WebhookId, usize>,
}

impl Dispatcher {
    async fn look(&mut self) -> Result<(), StoreError> {
        for webhook in self.gateway.store().active_webhooks().await? {
            for _ in 0..PARTS {
                if !self.gateway.store().spread_events(webhook.id, now()).await? {
                    break;
                }
            }
            self.send_due(&webhook).await?;
        }
        Ok(())
    }

    async fn send_due(&mut self, webhook: &Webhook) -> Result<(), StoreError> {
        let sending = self.busy.get(&webhook.id).copied().unwrap_or(0);
        let free =
            PER_WEBHOOK.saturating_sub(sending).min(AT_ONCE.saturating_sub(self.sends.len()));
        if free == 0 {
            return Ok(());
        }
        let (now, store) = (now(), self.gateway.store());
        let until = now.after(self.gateway.config().webhooks.lease);
        for attempt in store.claim_deliveries(webhook, now, until, free).await? {
            *self.busy.entry(webhook.id).or_default() += 1;
            let (gateway, sender) = (self.gateway.clone(), self.sender.clone());
            self.sends.spawn(async move {
                if let Err(error) = send(&gateway, &sender, &attempt).await {
                    let delivery = attempt.delivery.id;
                    tracing::warn!(%error, %delivery, "a delivery is tried again after its lease");
                }
                attempt.delivery.webhook_id
            });
        }
        Ok(())
    }

    /// Waits until one was sent, and takes along all that were; `None` if none is being.
    async fn some_sent(&mut self) -> Option<()> {
        let mut next = Some(self.sends.join_next().await?);
        while let Some(sent) = next {
            match sent {
                Ok(id) => {
                    if let Some(sending) = self.busy.get_mut(&id) {
                        *sending = sending.saturating_sub(1);
                    }
                }
                // Whose it was is not known any more; at worst a webhook has fewer at once.
                Err(error) => tracing::error!(%error, "sending a delivery failed"),
            }
            next = self.sends.try_join_next();
        }
        self.busy.retain(|_, sending| *sending > 0);
        Some(())
    }
}

async fn send(gateway: &Gateway, sender: &Sender, attempt: &Attempt) -> Result<(), StoreError> {
    let secret = gateway.store().webhook_secret(attempt.delivery.webhook_id).await?;
    let tried = sender.send(attempt, &secret, now()).await;
    let backoff = &gateway.config().webhooks.backoff;
    let verdict = verdict(tried, attempt.delivery.attempts, backoff, rand::random());
    tracing::debug!(delivery = %attempt.delivery.id, ?verdict, "a webhook was told");
    gateway.store().finish_attempt(attempt, &verdict, now()).await
}
