//! Does to the fleet what the plan says, when it says so.

use crate::{error::Error, fleet::Fleet, network::Network};
use chaos::plan::{Planned, Step};
use rustix::process::Signal;
use sqlx::PgPool;
use std::time::Duration;
use test_servers::Redis;
use tokio::{task::block_in_place, time::Instant};

/// How often what ended by itself is started again.
const TEND: Duration = Duration::from_millis(500);

/// What is broken and mended.
pub(crate) struct Broken<'a> {
    pub(crate) fleet: &'a mut Fleet,
    pub(crate) network: Network,
    pub(crate) redis: &'a mut Redis,
    pub(crate) database: &'a PgPool,
    pub(crate) began: Instant,
}

impl Broken<'_> {
    /// Takes every step at its time.
    pub(crate) async fn follow(&mut self, plan: &[Planned]) -> Result<(), Error> {
        for planned in plan {
            let at = self.began + Duration::from_millis(planned.at_ms);
            self.tend_until(at).await?;
            self.say(&planned.step.to_string());
            self.take(planned.step).await?;
        }
        Ok(())
    }

    /// Lets time pass, as long as nothing is to be done but to start again what ended by itself.
    pub(crate) async fn tend_until(&mut self, at: Instant) -> Result<(), Error> {
        loop {
            for (node, status) in self.fleet.tend()? {
                self.say(&format!("{node} has ended by itself, with {status}; start it again"));
            }
            let now = Instant::now();
            if now >= at {
                return Ok(());
            }
            tokio::time::sleep_until(at.min(now + TEND)).await;
        }
    }

    async fn take(&mut self, step: Step) -> Result<(), Error> {
        match step {
            Step::Kill(node) => self.fleet.kill(node),
            Step::Start(node) => self.fleet.start_member(node),
            Step::Stop(node) => self.fleet.signal(node, Signal::STOP),
            Step::Continue(node) => self.fleet.signal(node, Signal::CONT),
            Step::Cut(node) => self.network.cut(node),
            Step::Join(node) => self.network.join(node),
            Step::Skew { node, seconds } => self.fleet.skew(node, seconds),
            Step::KillRedis => {
                block_in_place(|| self.redis.kill());
                Ok(())
            }
            Step::StartRedis => {
                block_in_place(|| self.redis.restart());
                Ok(())
            }
            Step::EndConnections { per_cent } => {
                let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                           WHERE application_name = 'aetherium' AND random() * 100 < $1";
                sqlx::query(end).bind(f64::from(per_cent)).execute(self.database).await?;
                Ok(())
            }
        }
    }

    fn say(&self, what: &str) {
        let at = self.began.elapsed();
        eprintln!("{:>6}.{:03} s  {what}", at.as_secs(), at.subsec_millis());
    }
}
