//! Many workers with simulated VMs behind one real gateway, store and queue: how VMs are placed and how
//! soon they run, and what that and the workers' heartbeats cost.
//!
//! Gateway and workers share this process, the gateway on threads of its own. PostgreSQL's share is read
//! from its processes, where it runs on this machine.

mod crowd;
mod drive;
mod figures;
mod idle;

use super::{
    Figure,
    database::Database,
    front::{Carrier, Front},
};
use crate::{
    args::FleetBenchArgs,
    error::{CliError, local},
    progress::Bars,
};
use aetherium_model::Fault;
use aetherium_queue::Bus;
use aetherium_store::Store;
use crowd::Crowd;
use drive::Drive;
use std::{path::Path, time::Instant};

/// The gateway's threads.
const THREADS: usize = 2;

pub(super) async fn fleet(wanted: &FleetBenchArgs) -> Result<Vec<Figure>, CliError> {
    let dir = tempfile::Builder::new().prefix("aefl").tempdir();
    let dir = dir.map_err(|error| local("a temporary directory", error))?;
    let mut database = Database::make(wanted.store.database.as_deref(), dir.path()).await?;
    let measured = if wanted.idle {
        idle::idle(wanted, &mut database, dir.path()).await
    } else {
        measure(wanted, &mut database, dir.path()).await
    };
    database.remove().await?;
    measured
}

async fn measure(
    wanted: &FleetBenchArgs,
    database: &mut Database,
    dir: &Path,
) -> Result<Vec<Figure>, CliError> {
    let carrier = Carrier::named(wanted.store.redis.as_deref(), Bus::in_process());
    let front = Front::open(database.url(), carrier.clone(), None, THREADS).await?;
    let bus = carrier.bus()?;
    let url = database.url().parse().map_err(Fault::from)?;
    let store = Box::pin(Store::open(&url)).await.map_err(Fault::from)?;
    let bars = Bars::new();
    bars.spin(&format!("starting {} workers", wanted.workers));
    let crowd = Crowd::start(wanted, dir, &store, &bus).await?;
    let figures = watch(wanted, database, &front, &bars).await;
    // In this order, and before the database goes: none of them shall miss another.
    bars.spin(&format!("stopping {} workers", wanted.workers));
    crowd.leave().await;
    front.close().await;
    store.close().await;
    bars.clear();
    figures
}

/// Has the VMs made, and leaves them alone for a while.
async fn watch(
    wanted: &FleetBenchArgs,
    database: &mut Database,
    front: &Front,
    bars: &Bars,
) -> Result<Vec<Figure>, CliError> {
    let before = Used::now(front, database);
    let driven = Drive { wanted, client: front.client()?, bars }.run(database).await?;
    let creating = before.since(front, database);

    bars.spin(&format!("nothing but heartbeats for {:?}", wanted.seconds));
    let before = Used::now(front, database);
    tokio::time::sleep(wanted.seconds).await;
    let resting = before.since(front, database);
    figures::figures(wanted, database, driven, creating, resting).await
}

/// What gateway and PostgreSQL have used up to a moment.
struct Used {
    at: Instant,
    gateway: std::time::Duration,
    postgres: Option<std::time::Duration>,
}

/// What they used over a time, in cores.
struct Cores {
    gateway: f64,
    postgres: Option<f64>,
}

impl Used {
    fn now(front: &Front, database: &Database) -> Self {
        Self { at: Instant::now(), gateway: front.cpu(), postgres: database.cpu() }
    }

    fn since(&self, front: &Front, database: &Database) -> Cores {
        let now = Self::now(front, database);
        let time = (now.at - self.at).as_secs_f64();
        let postgres = now.postgres.zip(self.postgres);
        Cores {
            gateway: now.gateway.saturating_sub(self.gateway).as_secs_f64() / time,
            postgres: postgres.map(|(now, then)| now.saturating_sub(then).as_secs_f64() / time),
        }
    }
}
