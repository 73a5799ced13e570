//! A gateway on threads of its own, so that what it uses can be told from what the benchmark does.

use super::proc;
use crate::{
    client::Client,
    error::{CliError, local},
    server,
};
use aetherium_gateway::{ApiKeys, Gateway, GatewayConfig};
use aetherium_model::{Code, Fault, pass::FleetKey};
use aetherium_queue::{Bus, Queue};
use aetherium_store::Store;
use std::{net::Ipv4Addr, time::Duration};
use tokio::{net::TcpListener, runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// The name of its threads; Linux keeps 15 bytes.
const THREADS: &str = "ae-gateway";
/// Whoever may ask it: it listens on the loopback for as long as a benchmark lasts.
const KEY_BYTES: usize = 16;

/// What carries calls and changes between gateway and workers.
#[derive(Clone)]
pub(super) enum Carrier {
    /// One bus that both have.
    Shared(Bus),
    /// A Redis, to which each has connections of its own.
    Redis(String),
}

impl Carrier {
    /// The Redis that was named, or else this bus.
    pub(super) fn named(redis: Option<&str>, shared: Bus) -> Self {
        redis.map_or(Self::Shared(shared), |url| Self::Redis(url.to_owned()))
    }

    /// A bus for one of them, whose work is done by the runtime that this is called in.
    pub(super) fn bus(&self) -> Result<Bus, Fault> {
        match self {
            Self::Shared(bus) => Ok(bus.clone()),
            Self::Redis(url) => Bus::redis(url).map_err(|error| {
                Fault::new(Code::InvalidRequest, format!("--redis: {error}"))
                    .remedy("name it as redis://host:6379")
            }),
        }
    }
}

/// A gateway. It stops with this value.
pub(super) struct Front {
    runtime: Option<runtime::Runtime>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    url: String,
    key: String,
}

impl Front {
    /// Opens a gateway over a database, with so many threads.
    pub(super) async fn open(
        database: &str,
        carrier: Carrier,
        fleet_key: Option<FleetKey>,
        threads: usize,
    ) -> Result<Self, CliError> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name(THREADS)
            .enable_all()
            .build()
            .map_err(|error| local("the gateway's threads", error))?;
        let random: [u8; KEY_BYTES] = rand::random();
        let key: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let keys = ApiKeys::new([key.as_str()]).map_err(Fault::internal)?;
        let database = database.parse().map_err(Fault::from)?;
        // Its connections belong to its threads.
        let opened = runtime.spawn(async move {
            let store = Box::pin(Store::open(&database)).await.map_err(Fault::from)?;
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
            let listener =
                listener.map_err(|error| local("cannot listen on the loopback", error))?;
            Ok::<_, Fault>((store, listener, carrier.bus()?))
        });
        let (store, listener, bus) = opened.await.map_err(Fault::internal)??;
        let address =
            listener.local_addr().map_err(|error| local("the listener's address", error))?;
        let config = GatewayConfig { fleet_key, ..GatewayConfig::new(keys) };
        let gateway = Gateway::new(config, Queue::new(store, bus));
        let stop = CancellationToken::new();
        let serving = runtime.spawn(server::serve(listener, gateway, stop.clone()));
        let url = format!("http://{address}");
        Ok(Self { runtime: Some(runtime), stop, serving, url, key })
    }

    /// A client of it.
    pub(super) fn client(&self) -> Result<Client, CliError> {
        Client::new(&self.url, &self.key)
    }

    /// What it has used of the processors, its connections to PostgreSQL included.
    #[expect(clippy::unused_self, reason = "one that is not open has used nothing")]
    pub(super) fn cpu(&self) -> Duration {
        proc::cpu_of_threads(THREADS)
    }

    /// Stops it.
    pub(super) async fn close(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.serving).await {
            tracing::error!(%error, "the gateway did not end well");
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
