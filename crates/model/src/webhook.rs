//! Webhooks: addresses that are told of events, and what became of telling them.
//!
//! A delivery is one event for one webhook. It is tried until it is taken or has been tried often
//! enough; each try is signed, so that the receiver knows who speaks and when.

use crate::{
    DeliveryId, Timestamp, WebhookId,
    event::{Event, EventFilter},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::{fmt, time::Duration};

/// The header that carries a delivery's signature.
pub const SIGNATURE_HEADER: &str = "aetherium-signature";
/// How often a delivery is tried.
pub const MAX_ATTEMPTS: u32 = 8;
/// After so many deliveries in a row that nobody took, a webhook is disabled.
pub const MAX_FAILURES: u32 = 10;
/// The longest address, in bytes.
pub const MAX_URL_BYTES: usize = 2048;

/// Whether a webhook is told of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum WebhookState {
    /// It is.
    Active,
    /// Its owner does not want it to be, for now. What happens meanwhile it is never told.
    Paused,
    /// It failed too often. Making it active again goes on where it was left.
    Disabled {
        /// Why.
        reason: String,
    },
}

impl WebhookState {
    /// The state's name, as in JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Disabled { .. } => "disabled",
        }
    }
}

/// An address that is told of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// Where events are posted to.
    pub url: String,
    /// Which events.
    pub filter: EventFilter,
    /// Whether it is told.
    #[serde(flatten)]
    pub state: WebhookState,
    /// The number of the event up to which the log was read for it.
    pub reached: i64,
    /// Deliveries in a row that nobody took.
    pub failures: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed by its owner, or disabled.
    pub updated_at: Timestamp,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It waits for its first or next try.
    Pending,
    /// The receiver took it: it answered with a status of 200 to 299.
    Delivered,
    /// It was tried often enough, or cannot be delivered.
    Dead,
}

impl DeliveryState {
    /// The state's name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

/// How a try ended that nobody took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Refusal {
    /// The receiver's status, if it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What went wrong, in a sentence.
    pub detail: String,
}

/// One event for one webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Delivery {
    /// Its id, the same at every try: receivers tell by it that they had it before.
    pub id: DeliveryId,
    /// Whom it is for.
    pub webhook_id: WebhookId,
    /// What it tells.
    pub event: Event,
    /// What became of it.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: u32,
    /// How the last try ended that nobody took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// When it is tried next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was taken or given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// How a try ended, and what that means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// The receiver took it.
    Taken,
    /// It did not, and may another time.
    Refused(Refusal),
    /// The receiver wants no more (410), or may not be spoken to.
    Gone(Refusal),
}

/// What follows from how a try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It was taken.
    Delivered,
    /// It is tried again after a pause.
    Again(Duration, Refusal),
    /// It is given up.
    Dead(Refusal),
    /// It is given up, and its webhook with it.
    Disable(Refusal),
}

/// How long is waited between tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest pause before the second try; each further one may be twice as long.
    pub first: Duration,
    /// The longest pause of all.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(10), longest: Duration::from_secs(3600) }
    }
}

/// Decides what follows from how the try numbered `attempt` (from 1) ended. `chance` is drawn from
/// 0 to 1: those that failed together do not come back together.
pub fn verdict(tried: Tried, attempt: u32, backoff: &Backoff, chance: f64) -> Verdict {
    match tried {
        Tried::Taken => Verdict::Delivered,
        Tried::Gone(refusal) => Verdict::Disable(refusal),
        Tried::Refused(refusal) if attempt >= MAX_ATTEMPTS => Verdict::Dead(refusal),
        Tried::Refused(refusal) => {
            let doubled = backoff.first * 2u32.saturating_pow(attempt.saturating_sub(1).min(16));
            let longest = doubled.min(backoff.longest);
            // Half of it at least, so that a broken receiver is left alone for a while.
            Verdict::Again(longest.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0), refusal)
        }
    }
}

/// What signs a webhook's deliveries; its owner knows it too.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(String);

impl WebhookSecret {
    /// The secret of these random bytes.
    pub fn of(random: [u8; 32]) -> Self {
        let hex = |text: String, byte: &u8| text + &format!("{byte:02x}");
        Self(random.iter().fold("whsec_".to_owned(), hex))
    }

    /// A secret as it was kept.
    pub const fn kept(text: String) -> Self {
        Self(text)
    }

    /// The secret itself: for its owner, once, and for the store.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The value of [`SIGNATURE_HEADER`] for a body that is sent at `at`: `t=` its time in seconds,
    /// `v1=` the HMAC-SHA256, in hexadecimal, of the time, a dot and the body, by the secret's text.
    pub fn sign(&self, at: Timestamp, body: &[u8]) -> String {
        let seconds = at.as_millis().div_euclid(1000);
        // HMAC takes keys of every length.
        let Ok(mut proof) = Hmac::<Sha256>::new_from_slice(self.0.as_bytes()) else {
            return String::new();
        };
        proof.update(format!("{seconds}.").as_bytes());
        proof.update(body);
        let hex = |text: String, byte: u8| text + &format!("{byte:02x}");
        let begin = format!("t={seconds},v1=");
        proof.finalize().into_bytes().into_iter().fold(begin, hex)
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Tried {
        Tried::Refused(Refusal { status: Some(500), detail: "no".into() })
    }

    #[test]
    fn pauses_double_up_to_an_hour_and_the_last_try_is_the_last() {
        let (backoff, mut total) = (Backoff::default(), Duration::ZERO);
        for attempt in 1..MAX_ATTEMPTS {
            let pause = |chance| match verdict(refused(), attempt, &backoff, chance) {
                Verdict::Again(pause, _) => pause,
                other => panic!("{other:?}"),
            };
            let (shortest, longest) = (pause(0.0), pause(1.0));
            assert_eq!(shortest * 2, longest);
            assert!(longest <= backoff.longest);
            total += longest;
        }
        assert!(matches!(verdict(refused(), MAX_ATTEMPTS, &backoff, 0.5), Verdict::Dead(_)));
        assert!(total > Duration::from_secs(600), "a receiver has minutes to come back: {total:?}");
    }

    #[test]
    fn a_signature_is_what_its_description_says() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac whsec_x
        let secret = WebhookSecret::kept("whsec_x".into());
        let signature = secret.sign(Timestamp::from_millis(1_700_000_000_999), b"{}");
        assert_eq!(
            signature,
            "t=1700000000,v1=be8cb8325f2202445260a855532f967e30ad2a9394ce28da66ee02880ddcb661"
        );
        assert_eq!(format!("{secret:?}"), "WebhookSecret");
        assert_eq!(WebhookSecret::of([7; 32]).reveal().len(), "whsec_".len() + 64);
    }
}
