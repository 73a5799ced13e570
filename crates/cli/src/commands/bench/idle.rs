//! What a server costs that has nothing to do.

use super::{Figure, proc};
use crate::{
    args::{Args, BenchArgs},
    client::Client,
    datadir::DataDir,
    error::{CliError, local},
    progress::Bars,
};
use aetherium_model::{Code, Fault};
use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long the server may take to start.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// What it still does after its start is no part of idling.
const SETTLE: Duration = Duration::from_secs(3);

pub(super) async fn idle(
    args: &Args,
    watch: Duration,
    bench: &BenchArgs,
) -> Result<Vec<Figure>, CliError> {
    let data = DataDir::locate(args.data_dir.as_deref())?;
    data.create()?;
    drop(data.lock()?);
    let server = Idler::start(&data, bench)?;
    server.up(&data).await?;
    let bars = Bars::new();
    bars.spin("watching an idle server");
    tokio::time::sleep(SETTLE).await;
    let pid = server.0.id();
    let (before, began) = (proc::cpu_of(pid)?, Instant::now());
    tokio::time::sleep(watch).await;
    let used = proc::cpu_of(pid)? - before;
    let busy = used.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    bars.clear();
    Ok(vec![
        Figure::new("idle.resident", proc::resident_mib(pid)?, "MiB").value_at_most(60.0),
        Figure::new("idle.cpu", busy, "% of a core").value_at_most(0.5),
    ])
}

/// A server in a process of its own, ended with this value.
struct Idler(Child);

impl Idler {
    fn start(data: &DataDir, bench: &BenchArgs) -> Result<Self, CliError> {
        let program =
            std::env::current_exe().map_err(|error| local("this program's path", error))?;
        let mut command = Command::new(program);
        command.arg("--data-dir").arg(data.path()).args(["up", "--listen", "127.0.0.1:0"]);
        command.args(["--driver", &bench.driver.driver.to_string()]);
        let paths: [(&str, Option<&Path>); 2] =
            [("--agent", bench.driver.agent.as_deref()), ("--qemu", bench.driver.qemu.as_deref())];
        for (flag, path) in paths {
            if let Some(path) = path {
                command.arg(flag).arg(path);
            }
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
            .map_err(|error| local("cannot start a server", error).into())
    }

    async fn up(&self, data: &DataDir) -> Result<(), CliError> {
        let deadline = Instant::now() + START_DEADLINE;
        while Instant::now() < deadline {
            if let Some(running) = data.running().filter(|it| it.pid == self.0.id())
                && Client::new(&running.url, "")?.is_up().await
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(Fault::new(Code::DeadlineExceeded, "the server did not start in time").into())
    }
}

impl Drop for Idler {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw)
        {
            // It drains and goes; should it not, the kill below ends it.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + Duration::from_secs(15);
        while Instant::now() < deadline {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
