//! The gateway's state: what every handler shares. It owns nothing durable.

use crate::{
    Error, GatewayConfig, metrics::GatewayMetrics, registry::Registry, worker_client::WorkerClient,
};
use aetherium_model::{Timestamp, event::By};
use aetherium_queue::{Bus, Queue};
use aetherium_store::Store;
use std::{sync::Arc, time::SystemTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Everything a request needs. Clones share it, and cost little: each layer makes one per request.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
    queue: Arc<Queue>,
}

struct Inner {
    config: GatewayConfig,
    workers: WorkerClient,
    registry: Registry,
    streams: Arc<Semaphore>,
    stopping: CancellationToken,
    tasks: TaskTracker,
    metrics: GatewayMetrics,
}

impl Gateway {
    /// A gateway in front of `queue` and its store.
    pub fn new(config: GatewayConfig, queue: Queue) -> Self {
        let inner = Inner {
            streams: Arc::new(Semaphore::new(config.max_streams)),
            workers: WorkerClient::new(config.fleet_key.clone()),
            registry: Registry::default(),
            config,
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            metrics: GatewayMetrics::default(),
        };
        Self { inner: Arc::new(inner), queue: Arc::new(queue) }
    }

    /// The same gateway, changing things on behalf of `by`.
    pub(crate) fn on_behalf_of(&self, by: By) -> Self {
        Self { inner: Arc::clone(&self.inner), queue: Arc::new(self.queue.on_behalf_of(by)) }
    }

    pub(crate) fn config(&self) -> &GatewayConfig {
        &self.inner.config
    }

    /// For writing: whom a write concerns is told of it.
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// For reading.
    pub(crate) fn store(&self) -> &Store {
        self.queue.store()
    }

    /// For waiting.
    pub(crate) fn bus(&self) -> &Bus {
        self.queue.bus()
    }

    pub(crate) fn workers(&self) -> &WorkerClient {
        &self.inner.workers
    }

    /// The workers' rows, for placing.
    pub(crate) fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// Cancelled when the gateway begins to stop: streams end then.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.inner.stopping
    }

    /// The tasks that [`Gateway::stop`] waits for.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    pub(crate) fn metrics(&self) -> &GatewayMetrics {
        &self.inner.metrics
    }

    /// How many streams are open, and how many may be.
    pub(crate) fn streams(&self) -> (usize, usize) {
        let most = self.inner.config.max_streams;
        (most.saturating_sub(self.inner.streams.available_permits()), most)
    }

    /// A place among the streams, held for as long as the stream lasts.
    pub(crate) fn stream_permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        if self.inner.stopping.is_cancelled() {
            return Err(Error::Stopping);
        }
        Arc::clone(&self.inner.streams)
            .try_acquire_owned()
            .map_err(|_| Error::StreamsExhausted(self.inner.config.max_streams))
    }

    /// Ends every stream and waits for every connection; each bounds its own end.
    pub(crate) async fn stop(&self) {
        self.inner.stopping.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

/// The time of this request.
pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}
