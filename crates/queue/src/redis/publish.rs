//! Says what this process has to say: whatever has come together, in one go, each word once.

use super::{Ended, MOST_CALLS, Message, answered, streams, subscribe};
use aetherium_model::WorkerId;
use redis::{Pipeline, aio::MultiplexedConnection};
use std::{
    collections::HashSet,
    convert::Infallible,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::sync::mpsc;

/// How many words are said in one go.
const AT_ONCE: usize = 512;
/// How often Redis is asked whether it is there while there is nothing to say.
pub(super) const PING_EVERY: Duration = Duration::from_secs(1);
/// How long a stream is kept without a call, in seconds: a day.
const STREAM_TTL_S: i64 = 24 * 3600;

pub(super) struct Publisher<'a> {
    pub(super) connection: MultiplexedConnection,
    pub(super) myself: &'a str,
    pub(super) dropped: &'a AtomicU64,
}

impl Publisher<'_> {
    pub(super) async fn serve(
        mut self,
        words: &mut mpsc::Receiver<Message>,
    ) -> Result<Infallible, Ended> {
        let mut batch = Vec::with_capacity(AT_ONCE);
        loop {
            match tokio::time::timeout(PING_EVERY, words.recv_many(&mut batch, AT_ONCE)).await {
                Ok(0) => return Err(Ended::Closed),
                Ok(_) => {
                    let said = self.pipeline(batch.drain(..));
                    answered(said.query_async::<()>(&mut self.connection)).await?;
                }
                Err(_) => {
                    answered(redis::cmd("PING").query_async::<()>(&mut self.connection)).await?;
                }
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                tracing::warn!(
                    dropped,
                    "more was to be said than Redis takes; who waits for it looks later"
                );
            }
        }
    }

    fn pipeline(&self, batch: impl Iterator<Item = Message>) -> Pipeline {
        let mut said = HashSet::new();
        let mut called = HashSet::<WorkerId>::new();
        let mut pipeline = redis::pipe();
        for message in batch.filter(|message| said.insert(message.clone())) {
            match message {
                Message::Changed(topic) => {
                    if let Some(channel) = subscribe::channel(topic) {
                        pipeline.cmd("PUBLISH").arg(channel).arg(self.myself).ignore();
                    }
                }
                Message::Call { worker_id, task_id } => {
                    let (field, value) = streams::fields(task_id);
                    let stream = streams::key(worker_id);
                    pipeline.cmd("XADD").arg(&stream).arg("MAXLEN").arg("~").arg(MOST_CALLS);
                    pipeline.arg("*").arg(field).arg(value).ignore();
                    if called.insert(worker_id) {
                        pipeline.cmd("EXPIRE").arg(&stream).arg(STREAM_TTL_S).ignore();
                    }
                }
                Message::Followed { worker_id, receipts } => {
                    pipeline.cmd("XACK").arg(streams::key(worker_id)).arg(streams::GROUP);
                    pipeline.arg(receipts).ignore();
                }
            }
        }
        pipeline
    }
}
