//! Sessions with Redis, one after the other: all three connections live, or the session ends.
//!
//! | connection | carries |
//! | --- | --- |
//! | [`publish`](super::publish) | what this process says, and a ping while it says nothing |
//! | [`subscribe`](super::subscribe) | changes of what somebody here listens to |
//! | [`streams`](super::streams) | the calls of the workers that are in this process |

use super::{
    ANSWER, Ended, FIRST_PAUSE, Health, LONGEST_PAUSE, Message, answered, publish::Publisher,
    streams::Streams, subscribe::Subscriber,
};
use crate::bus::Local;
use redis::{AsyncConnectionConfig, Client, aio::MultiplexedConnection};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, watch};

pub(super) struct Sessions {
    client: Client,
    local: Arc<Local>,
    turn: watch::Sender<Health>,
    /// How many words were dropped in this outage, or for want of room.
    dropped: Arc<AtomicU64>,
    /// Tells this process's words from those of others.
    myself: String,
}

impl Sessions {
    pub(super) fn new(
        client: Client,
        local: Arc<Local>,
        turn: watch::Sender<Health>,
        dropped: Arc<AtomicU64>,
    ) -> Self {
        let myself = format!("{:016x}", rand::random::<u64>());
        Self { client, local, turn, dropped, myself }
    }

    /// Goes on for ever: its owner aborts it.
    pub(super) async fn run(self, mut words: mpsc::Receiver<Message>) {
        let mut pause = FIRST_PAUSE;
        // One line in the log for an outage, not one for each try.
        let mut told = false;
        loop {
            let why = match self.begin().await {
                Ok(session) => {
                    self.turned_healthy();
                    (pause, told) = (FIRST_PAUSE, false);
                    let Err(why) = session.serve(&mut words).await;
                    self.turned_away();
                    why
                }
                Err(why) => why,
            };
            if !told {
                tracing::warn!(%why, address = %self.address(), "Redis does not answer: looking at the store more often until it does");
                told = true;
            }
            // What was not said is not said later: everyone looks for themselves.
            while words.try_recv().is_ok() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn begin(&self) -> Result<Session<'_>, Ended> {
        let local = &self.local;
        let subscriber = answered(self.client.get_async_pubsub()).await?;
        let subscriber = Subscriber::begin(subscriber, local, &self.myself).await?;
        let streams = self.connection(streams_answer()).await?;
        let streams = Streams::begin(streams, local, &self.myself).await?;
        let publisher = Publisher {
            connection: self.connection(ANSWER).await?,
            myself: &self.myself,
            dropped: &self.dropped,
        };
        Ok(Session { subscriber, streams, publisher })
    }

    async fn connection(&self, answer: Duration) -> Result<MultiplexedConnection, Ended> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER))
            .set_response_timeout(Some(answer));
        answered(self.client.get_multiplexed_async_connection_with_config(&config)).await
    }

    fn turned_healthy(&self) {
        self.turn.send_replace(Health::Healthy);
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        tracing::info!(address = %self.address(), dropped, "Redis answers");
        self.local.announce_all();
    }

    fn turned_away(&self) {
        self.turn.send_replace(Health::Away);
        self.local.unfollow();
        self.local.announce_all();
    }

    /// Where it is, without a password.
    fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }
}

/// Reading a stream waits for calls first, then for the answer.
const fn streams_answer() -> Duration {
    Duration::from_millis(super::streams::BLOCK_MS).saturating_add(ANSWER)
}

struct Session<'a> {
    subscriber: Subscriber<'a>,
    streams: Streams<'a>,
    publisher: Publisher<'a>,
}

impl Session<'_> {
    async fn serve(self, words: &mut mpsc::Receiver<Message>) -> Result<Infallible, Ended> {
        tokio::select! {
            ended = self.subscriber.serve() => ended,
            ended = self.streams.serve() => ended,
            ended = self.publisher.serve(words) => ended,
        }
    }
}
