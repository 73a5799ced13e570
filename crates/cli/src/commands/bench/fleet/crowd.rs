//! The workers: each as in a process of its own but for the process, with one simulated driver for all.

use crate::{
    args::FleetBenchArgs,
    error::{CliError, local},
};
use aetherium_model::{Fault, room::Overcommit, worker::Lease};
use aetherium_queue::Bus;
use aetherium_store::Store;
use aetherium_vmm::{Chosen, Model, Simulated, Vmm};
use aetherium_worker::{Layout, Parts, Settings, SlotChoice, Worker};
use futures::{StreamExt as _, future::join_all, stream};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::{path::Path, sync::Arc, time::Duration};

/// Workers that start at once.
const STARTING: usize = 8;
/// How long the workers may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Running workers.
pub(super) struct Crowd(Vec<Worker>);

impl Crowd {
    /// Starts the workers over one store.
    pub(super) async fn start(
        wanted: &FleetBenchArgs,
        dir: &Path,
        store: &Store,
        bus: &Bus,
    ) -> Result<Self, CliError> {
        allow_many_files()?;
        let model = Model { seed: wanted.seed, ..Model::default() };
        let vmm: Arc<dyn Vmm> = Arc::new(Simulated::new(model, dir.join("guests.sock")));
        // Twice what falls to each, so that it is placement that keeps them even.
        let each = wanted.vms.div_ceil(wanted.workers.max(1)).saturating_mul(2);
        let settings = Settings {
            slots: SlotChoice::Off,
            lease: Some(Lease::default()),
            overcommit: Overcommit::default(),
            max_vms: each,
            ..Settings::default()
        };
        let one = |number: u32| {
            let settings = settings.clone();
            let (vmm, store, bus) = (Arc::clone(&vmm), store.clone(), bus.clone());
            let dir = dir.join(format!("w{number}"));
            async move {
                let reason = format!("{}: asked for by the benchmark", vmm.kind());
                let parts = Parts {
                    layout: Layout::open(&dir)?,
                    store,
                    bus,
                    driver: Ok(Chosen { vmm, reason, findings: Vec::new() }),
                    remote: None,
                    settings,
                };
                Box::pin(Worker::start(parts)).await
            }
        };
        let started = stream::iter(0..wanted.workers).map(one).buffer_unordered(STARTING);
        let started: Vec<_> = started.collect().await;
        let (mut workers, mut failed) = (Vec::with_capacity(started.len()), None);
        for one in started {
            match one {
                Ok(worker) => workers.push(worker),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let crowd = Self(workers);
        if let Some(error) = failed {
            crowd.leave().await;
            return Err(Fault::from(error).into());
        }
        Ok(crowd)
    }

    /// Stops the workers and leaves their VMs, which end with this process.
    pub(super) async fn leave(self) {
        join_all(self.0.into_iter().map(|worker| worker.leave(STOP_WITHIN))).await;
    }
}

/// Each worker has a socket, and each VM that somebody talks to has two.
fn allow_many_files() -> Result<(), CliError> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)
        .map_err(|error| local("the limit of open files cannot be raised", error).into())
}
