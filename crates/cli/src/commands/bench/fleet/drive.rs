//! The load: VMs created at a steady rate, until each of them runs or has failed.

use crate::{
    args::FleetBenchArgs,
    client::Client,
    commands::bench::{database::Database, ms},
    error::CliError,
    progress::Bars,
};
use aetherium_gateway::api::CreateVm;
use aetherium_model::{Code, Fault, vm::Vm};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

/// Requests under way at once; with more the gateway is slower than the rate, which then shows.
const AT_ONCE: usize = 256;
/// How often it is told how far it has come.
const PROGRESS: Duration = Duration::from_secs(1);
/// How long the last VMs may take.
const PATIENCE: Duration = Duration::from_secs(120);

const ALIVE: &str = "SELECT COUNT(*) FROM vms WHERE state NOT IN ('running', 'failed', 'stopped')";

/// Who creates the VMs.
pub(super) struct Drive<'a> {
    pub(super) wanted: &'a FleetBenchArgs,
    pub(super) client: Client,
    pub(super) bars: &'a Bars,
}

/// What came of it.
pub(super) struct Driven {
    /// From request to answer, in milliseconds, of each VM that was accepted.
    pub(super) placed: Vec<f64>,
    /// Those that were not.
    pub(super) refused: Vec<CliError>,
    /// From the first request until the last VM ran.
    pub(super) took: Duration,
}

impl Drive<'_> {
    /// Creates the VMs and waits until none is on its way.
    pub(super) async fn run(self, database: &mut Database) -> Result<Driven, CliError> {
        let (began, total) = (Instant::now(), self.wanted.vms);
        let mut ticks = interval(Duration::from_secs(1) / self.wanted.rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (room, mut requests) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
        let mut told = began;
        for number in 0..total {
            ticks.tick().await;
            let permit = Arc::clone(&room).acquire_owned().await.map_err(Fault::internal)?;
            let client = self.client.clone();
            requests.spawn(async move {
                let _permit = permit;
                let asked = Instant::now();
                client.post::<Vm>("/vms", &CreateVm::default()).await.map(|_| asked.elapsed())
            });
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                self.bars.spin(&format!("{number} of {total} VMs created"));
            }
        }
        let mut driven = Driven { placed: Vec::new(), refused: Vec::new(), took: Duration::ZERO };
        for answer in requests.join_all().await {
            match answer {
                Ok(took) => driven.placed.push(ms(took)),
                Err(error) => driven.refused.push(error),
            }
        }
        self.settle(database).await?;
        driven.took = began.elapsed();
        Ok(driven)
    }

    async fn settle(&self, database: &mut Database) -> Result<(), CliError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let underway = database.numbers(ALIVE).await?.first().copied().unwrap_or_default();
            if underway == 0.0 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let detail = format!("{underway} VMs neither run nor have failed");
                return Err(Fault::new(Code::DeadlineExceeded, detail).into());
            }
            self.bars.spin(&format!("{underway} VMs on their way"));
            sleep(PROGRESS).await;
        }
    }
}
