//! One worker in a process of its own, and what it costs while its VMs do nothing.

use super::{Drive, Figure, THREADS};
use crate::{
    args::FleetBenchArgs,
    commands::bench::{
        database::Database,
        front::{Carrier, Front},
        proc,
    },
    error::{CliError, local},
    progress::Bars,
};
use aetherium_model::{Code, Fault, pass::FleetKey};
use aetherium_queue::Bus;
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// How long the worker may take to start.
const START: Duration = Duration::from_secs(30);
/// Connections to agents that nobody uses close after some seconds; what is done until then is no part
/// of idling.
const SETTLE: Duration = Duration::from_secs(20);
/// How often the gateway looks for what the worker has changed.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

const ACTIVE: &str = "SELECT COUNT(*) FROM workers WHERE state = 'active'";

pub(super) async fn idle(
    wanted: &FleetBenchArgs,
    database: &mut Database,
    dir: &Path,
) -> Result<Vec<Figure>, CliError> {
    let secret = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    let key_file = dir.join("fleet-key");
    fs::write(&key_file, &secret).map_err(|error| local(key_file.display(), error))?;
    let key = FleetKey::new(&secret).map_err(Fault::internal)?;
    let redis = wanted.store.redis.as_deref();
    let carrier = Carrier::named(redis, Bus::polling(LOOK_AGAIN));
    let front = Front::open(database.url(), carrier, Some(key), THREADS).await?;
    let bars = Bars::new();
    let worker = OneWorker::start(wanted, database.url(), dir, &key_file)?;
    worker.joined(database).await?;
    let drive = Drive { wanted, client: front.client()?, bars: &bars };
    let driven = drive.run(database).await?;
    if let Some(error) = driven.refused.into_iter().next() {
        return Err(error);
    }
    bars.spin("watching an idle worker");
    sleep(SETTLE).await;
    let (before, began) = (proc::cpu_of(worker.pid())?, Instant::now());
    sleep(wanted.seconds).await;
    let used = proc::cpu_of(worker.pid())? - before;
    let busy = used.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    let resident = proc::resident_mib(worker.pid())?;
    bars.clear();
    front.close().await;
    Ok(vec![
        Figure::new("fleet.idle.vms", f64::from(wanted.vms), "VMs"),
        Figure::new("fleet.idle.resident", resident, "MiB").value_at_most(200.0),
        Figure::new("fleet.idle.cpu", busy, "% of a core").value_at_most(2.0),
    ])
}

/// The role `worker` with simulated VMs, which end with it. Killed with this value.
struct OneWorker(Child);

impl OneWorker {
    fn start(
        wanted: &FleetBenchArgs,
        database: &str,
        dir: &Path,
        key_file: &Path,
    ) -> Result<Self, CliError> {
        let redis = wanted.store.redis.as_deref();
        let program =
            std::env::current_exe().map_err(|error| local("this program's path", error))?;
        let started = Command::new(program)
            .arg("--data-dir")
            .arg(dir.join("w"))
            .args(["worker", "--driver", "simulated", "--no-slots"])
            .args(["--dev", "--listen", "127.0.0.1:0", "--database", database, "--fleet-key-file"])
            .arg(key_file)
            .args(["--max-vms", &wanted.vms.to_string()])
            .args(redis.into_iter().flat_map(|url| ["--redis", url]))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        started.map(Self).map_err(|error| local("cannot start a worker", error).into())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits until it takes VMs.
    async fn joined(&self, database: &mut Database) -> Result<(), CliError> {
        let deadline = Instant::now() + START;
        while database.numbers(ACTIVE).await?.first() != Some(&1.0) {
            if Instant::now() >= deadline {
                let detail = format!("the worker did not join within {START:?}");
                return Err(Fault::new(Code::DeadlineExceeded, detail).into());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

impl Drop for OneWorker {
    fn drop(&mut self) {
        // It has nothing that outlives it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
