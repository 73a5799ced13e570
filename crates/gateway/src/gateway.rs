//! The gateway's state: what every handler shares. It owns nothing durable.

use crate::{Error, GatewayConfig, registry::Registry, worker_client::WorkerClient};
use aetherium_model::Timestamp;
use aetherium_queue::{Bus, Queue};
use aetherium_store::Store;
use std::{sync::Arc, time::SystemTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Everything a request needs. Clones share it.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

struct Inner {
    config: GatewayConfig,
    queue: Queue,
    workers: WorkerClient,
    registry: Registry,
    streams: Arc<Semaphore>,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl Gateway {
    /// A gateway in front of `queue` and its store.
    pub fn new(config: GatewayConfig, queue: Queue) -> Self {
        Self(Arc::new(Inner {
            streams: Arc::new(Semaphore::new(config.max_streams)),
            workers: WorkerClient::new(config.fleet_key.clone()),
            registry: Registry::default(),
            config,
            queue,
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    pub(crate) fn config(&self) -> &GatewayConfig {
        &self.0.config
    }

    /// For writing: whom a write concerns is told of it.
    pub(crate) fn queue(&self) -> &Queue {
        &self.0.queue
    }

    /// For reading.
    pub(crate) fn store(&self) -> &Store {
        self.0.queue.store()
    }

    /// For waiting.
    pub(crate) fn bus(&self) -> &Bus {
        self.0.queue.bus()
    }

    pub(crate) fn workers(&self) -> &WorkerClient {
        &self.0.workers
    }

    /// The workers' rows, for placing.
    pub(crate) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Cancelled when the gateway begins to stop: streams end then.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    /// The tasks that [`Gateway::stop`] waits for.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    /// A place among the streams, held for as long as the stream lasts.
    pub(crate) fn stream_permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        if self.0.stopping.is_cancelled() {
            return Err(Error::Stopping);
        }
        Arc::clone(&self.0.streams)
            .try_acquire_owned()
            .map_err(|_| Error::StreamsExhausted(self.0.config.max_streams))
    }

    /// Ends every stream and waits for every connection; each bounds its own end.
    pub(crate) async fn stop(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

/// The time of this request.
pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}
