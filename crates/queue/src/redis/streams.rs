//! Reads the calls of the workers that are in this process, each from its own stream.
//!
//! A stream that is gone (flushed, expired) is made anew, and its worker told to look.

use super::{Ended, MOST_CALLS, answered};
use crate::bus::{Local, Topic};
use aetherium_model::{TaskId, WorkerId};
use redis::{
    RedisError,
    aio::MultiplexedConnection,
    streams::{StreamAutoClaimReply, StreamId, StreamInfoConsumersReply, StreamReadReply},
};
use std::{collections::HashMap, convert::Infallible, time::Duration};
use tokio::time::Instant;

/// How long a read waits for calls, in milliseconds: also the longest delay until a worker that has just
/// come is read for.
pub(super) const BLOCK_MS: u64 = 1000;
/// How often calls are taken back that were handed out and never acknowledged, and how old they are.
const RECLAIM_EVERY: Duration = Duration::from_secs(30);
/// The one group of every stream.
pub(super) const GROUP: &str = "worker";
/// How often in a row a stream may be gone before the connection is taken for broken.
const MOST_LOST: u32 = 3;

/// The stream of a worker's calls.
pub(super) fn key(worker_id: WorkerId) -> String {
    format!("aetherium:work:{worker_id}")
}

/// What an entry says.
pub(super) fn fields(task_id: Option<TaskId>) -> (&'static str, String) {
    match task_id {
        Some(id) => ("task", id.to_string()),
        None => ("look", "1".to_owned()),
    }
}

pub(super) struct Streams<'a> {
    connection: MultiplexedConnection,
    local: &'a Local,
    /// This process's name as a consumer.
    myself: &'a str,
    workers: HashMap<String, WorkerId>,
    reclaim_at: Instant,
}

impl<'a> Streams<'a> {
    /// Makes the streams of those who are here, and takes what earlier processes of theirs left.
    pub(super) async fn begin(
        connection: MultiplexedConnection,
        local: &'a Local,
        myself: &'a str,
    ) -> Result<Self, Ended> {
        let reclaim_at = Instant::now() + RECLAIM_EVERY;
        let mut begun = Self { connection, local, myself, workers: HashMap::new(), reclaim_at };
        begun.follow_workers().await?;
        Ok(begun)
    }

    pub(super) async fn serve(mut self) -> Result<Infallible, Ended> {
        let mut lost = 0;
        loop {
            self.follow_workers().await?;
            if self.workers.is_empty() {
                self.local.other_workers().await;
                continue;
            }
            match self.read().await {
                Ok(read) => {
                    lost = 0;
                    read.keys.iter().for_each(|it| self.deliver(&it.key, &it.ids));
                }
                Err(Ended::Redis(error)) if is_gone(&error) && lost < MOST_LOST => {
                    lost += 1;
                    tracing::warn!(%error, "the workers' streams are gone from Redis; making them anew");
                    self.workers.clear();
                }
                Err(ended) => return Err(ended),
            }
            if Instant::now() >= self.reclaim_at {
                self.reclaim_at = Instant::now() + RECLAIM_EVERY;
                for key in self.workers.keys().cloned().collect::<Vec<_>>() {
                    self.reclaim(&key, RECLAIM_EVERY).await?;
                }
            }
        }
    }

    /// Begins with workers that came, and leaves those that went.
    async fn follow_workers(&mut self) -> Result<(), Ended> {
        let here: HashMap<_, _> =
            self.local.workers().into_iter().map(|id| (key(id), id)).collect();
        self.workers.retain(|key, _| here.contains_key(key));
        for (key, worker_id) in here {
            if !self.workers.contains_key(&key) {
                self.make(&key).await?;
                self.workers.insert(key.clone(), worker_id);
                // A worker has one process: what others took is nobody's.
                self.reclaim(&key, Duration::ZERO).await?;
                self.dismiss_others(&key).await?;
                self.call(worker_id, None, None);
            }
        }
        Ok(())
    }

    async fn make(&mut self, key: &str) -> Result<(), Ended> {
        let mut make = redis::cmd("XGROUP");
        make.arg("CREATE").arg(key).arg(GROUP).arg("0").arg("MKSTREAM");
        match answered(make.query_async::<()>(&mut self.connection)).await {
            Err(Ended::Redis(error)) if error.code() == Some("BUSYGROUP") => Ok(()),
            made => made,
        }
    }

    async fn read(&mut self) -> Result<StreamReadReply, Ended> {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(self.myself).arg("COUNT").arg(MOST_CALLS);
        read.arg("BLOCK").arg(BLOCK_MS).arg("STREAMS");
        self.workers.keys().for_each(|key| {
            read.arg(key);
        });
        self.workers.keys().for_each(|_| {
            read.arg(">");
        });
        // The connection's own deadline counts the time that Redis waits.
        Ok(read
            .query_async::<Option<StreamReadReply>>(&mut self.connection)
            .await?
            .unwrap_or_default())
    }

    /// Takes over what was handed out at least so long ago and never acknowledged.
    async fn reclaim(&mut self, key: &str, idle: Duration) -> Result<(), Ended> {
        let mut from = "0-0".to_owned();
        loop {
            let mut reclaim = redis::cmd("XAUTOCLAIM");
            reclaim.arg(key).arg(GROUP).arg(self.myself).arg(idle.as_millis() as u64).arg(&from);
            reclaim.arg("COUNT").arg(MOST_CALLS);
            let reclaimed: StreamAutoClaimReply =
                answered(reclaim.query_async(&mut self.connection)).await?;
            self.deliver(key, &reclaimed.claimed);
            if reclaimed.next_stream_id == "0-0" {
                return Ok(());
            }
            from = reclaimed.next_stream_id;
        }
    }

    /// Forgets the worker's earlier processes.
    async fn dismiss_others(&mut self, key: &str) -> Result<(), Ended> {
        let mut ask = redis::cmd("XINFO");
        ask.arg("CONSUMERS").arg(key).arg(GROUP);
        let known: StreamInfoConsumersReply =
            answered(ask.query_async(&mut self.connection)).await?;
        for other in known.consumers.iter().filter(|it| it.name != self.myself) {
            let mut dismiss = redis::cmd("XGROUP");
            dismiss.arg("DELCONSUMER").arg(key).arg(GROUP).arg(&other.name);
            answered(dismiss.query_async::<()>(&mut self.connection)).await?;
        }
        Ok(())
    }

    fn deliver(&self, key: &str, entries: &[StreamId]) {
        let Some(worker_id) = self.workers.get(key) else { return };
        for entry in entries {
            // Whatever else an entry says, it says that the worker is to look.
            let task_id = entry.get::<String>("task").and_then(|id| id.parse().ok());
            self.call(*worker_id, task_id, Some(entry.id.clone()));
        }
    }

    fn call(&self, worker_id: WorkerId, task_id: Option<TaskId>, receipt: Option<String>) {
        self.local.call(worker_id, task_id, receipt);
        self.local.announce(Topic::Worker(worker_id));
    }
}

/// Whether Redis answers well but knows the stream or its group no more.
fn is_gone(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOGROUP" | "UNBLOCKED"))
}
