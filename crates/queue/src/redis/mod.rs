//! Redis (7 or newer) between the processes of a fleet. It carries ids and nothing else: whatever it
//! loses, doubles, delays or invents, the store's tables say what is to be done.
//!
//! ```text
//!              greeted, subscribed, every worker's stream read once
//!       ┌──────────────────────────────────────────────────────────┐
//!       │                                                          ▼
//!     Away ◄──────────────────────────────────────────────────► Healthy
//!       ▲  an answer is late, an error, the connection is closed   │
//!       └──────────────────────────────────────────────────────────┘
//! ```
//! - **Away**: it is dialled again and again, with a pause that grows to [`LONGEST_PAUSE`]. What is to
//!   be said is dropped and counted. Subscribers look at the store every [`LOOK_WHEN_AWAY`].
//! - **Healthy**: three connections, see [`session`]. Subscribers look every [`LOOK_WHEN_HEALTHY`], for
//!   what another process could not say because it alone was cut off, or what Redis forgot.
//! - At each turn everyone in this process is told to look, since words were lost meanwhile. The log has
//!   one line for each turn, with how many words were dropped.
//!
//! What is in Redis:
//!
//! | key or channel | what |
//! | --- | --- |
//! | `aetherium:work:<worker id>` | a stream of the worker's calls, at most about [`MOST_CALLS`], gone after a day without one |
//! | `aetherium:run:<id>`, `…:task:…`, `…:vm:…`, `…:workspace:…` | channels: the row of this id changed |
//!
//! A stream's group is `worker`; a process of the worker is a consumer in it. What a process took and
//! never acknowledged, the worker's next process gets at its start, and this one again after a while.

mod publish;
mod session;
mod streams;
mod subscribe;

use crate::bus::{Local, Topic};
use aetherium_model::{TaskId, WorkerId};
use redis::{Client, RedisError};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// How often subscribers look at the store while Redis answers.
pub(crate) const LOOK_WHEN_HEALTHY: Duration = Duration::from_secs(2);
/// How often subscribers look at the store while Redis does not answer.
pub(crate) const LOOK_WHEN_AWAY: Duration = Duration::from_millis(200);
/// How long Redis may take to answer, or to be dialled.
const ANSWER: Duration = Duration::from_secs(1);
/// The pause before Redis is dialled again: the first, and what it grows to.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How many words wait to be said.
const OUTBOX: usize = 4096;
/// How many calls a worker's stream keeps.
const MOST_CALLS: usize = 1000;

/// How Redis answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It does not.
    Away,
    /// It does, in time.
    Healthy,
}

/// The address is none of a Redis.
#[derive(Debug, thiserror::Error)]
#[error("it is no address of a Redis, such as redis://host:6379: {0}")]
pub struct BadRedisUrl(#[source] RedisError);

/// Something to say to other processes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    /// This changed.
    Changed(Topic),
    /// The worker is to look, at a task or at all of them.
    Call { worker_id: WorkerId, task_id: Option<TaskId> },
    /// The worker followed these calls.
    Followed { worker_id: WorkerId, receipts: Vec<String> },
}

/// This process's way to Redis. It ends what it started when dropped.
#[derive(Debug)]
pub(crate) struct Link {
    outbox: mpsc::Sender<Message>,
    health: watch::Receiver<Health>,
    dropped: Arc<AtomicU64>,
    session: JoinHandle<()>,
}

impl Link {
    /// Begins to look for Redis.
    pub(crate) fn open(url: &str, local: Arc<Local>) -> Result<Self, BadRedisUrl> {
        // The process may have one already, which is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::open(url).map_err(BadRedisUrl)?;
        let (outbox, words) = mpsc::channel(OUTBOX);
        let (turn, health) = watch::channel(Health::Away);
        let dropped = Arc::default();
        let sessions = session::Sessions::new(client, local, turn, Arc::clone(&dropped));
        Ok(Self { outbox, health, dropped, session: tokio::spawn(sessions.run(words)) })
    }

    /// Says something to other processes, sooner or later or never.
    pub(crate) fn send(&self, message: Message) {
        let away = *self.health.borrow() == Health::Away;
        if away || self.outbox.try_send(message).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// After which time without word a subscriber looks again.
    pub(crate) fn look_again(&self) -> Duration {
        match *self.health.borrow() {
            Health::Healthy => LOOK_WHEN_HEALTHY,
            Health::Away => LOOK_WHEN_AWAY,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.session.abort();
    }
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    /// It answered with an error, or the connection broke.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// It did not answer.
    #[error("it did not answer within {} ms", ANSWER.as_millis())]
    Silent,
    /// It closed a connection.
    #[error("it closed the connection")]
    Closed,
}

/// Waits for an answer, but not for long.
async fn answered<T>(answer: impl Future<Output = Result<T, RedisError>>) -> Result<T, Ended> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Ended::Silent),
    }
}
