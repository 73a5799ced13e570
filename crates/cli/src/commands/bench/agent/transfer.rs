//! Bulk transfers through the agent, each beside a bare copy.

use super::{
    super::{Figure, median},
    Bench, MIB, PIECE, fault, finish,
    floor::Floor,
    start, whole,
};
use crate::error::CliError;
use aetherium_agent_client::{ExecSpec, Reach, WriteOptions};
use aetherium_model::Fault;
use bytes::Bytes;
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// How many of each; the median counts.
const ROUNDS: u32 = 5;

impl Bench<'_> {
    pub(super) async fn output(&self, floor: Option<&Floor>) -> Result<Figure, CliError> {
        self.bars.spin("output");
        let size = self.bytes.to_string();
        let bare = floor.map(|floor| || floor.output(self.bytes));
        let ours = async || {
            let process = start(self.agent, &["head", "-c", &size, "/dev/zero"]).await?;
            whole(finish(process).await?, self.bytes)
        };
        self.transfer("agent.stdout", bare, ours).await
    }

    pub(super) async fn input(&self, floor: Option<&Floor>) -> Result<Figure, CliError> {
        self.bars.spin("input");
        let bare = floor.map(|floor| || floor.input(self.bytes));
        let ours = async || {
            let spec = ExecSpec::new(["sh", "-c", "exec cat > /dev/null"]).with_stdin();
            let mut process = self.agent.exec(spec).await.map_err(fault)?;
            let mut stdin =
                process.stdin().ok_or_else(|| Fault::internal("the command has no stdin"))?;
            let piece = Bytes::from(vec![0; PIECE]);
            for _ in 0..self.bytes / PIECE as u64 {
                stdin.write(piece.clone()).await.map_err(fault)?;
            }
            stdin.close().await.map_err(fault)?;
            finish(process).await.map(drop)
        };
        self.transfer("agent.stdin", bare, ours).await
    }

    /// A file in memory, so that no disk is measured.
    pub(super) async fn file(&self, floor: Option<&Floor>) -> Result<Figure, CliError> {
        self.bars.spin("a file");
        let dir = format!("/dev/shm/aetherium-bench-{}", std::process::id());
        let (here, there) = (format!("{dir}/here"), format!("{dir}/bare"));
        let options = WriteOptions { make_parents: true, ..WriteOptions::default() };
        let ours = async || {
            let mut file = self.agent.files().write(&here, options.clone()).await.map_err(fault)?;
            let piece = Bytes::from(vec![0; PIECE]);
            for _ in 0..self.bytes / PIECE as u64 {
                file.write(piece.clone()).await.map_err(fault)?;
            }
            file.commit().await.map_err(fault)?;
            Ok(())
        };
        // The first one makes the directory for both.
        ours().await?;
        let bare = floor.map(|floor| || floor.file(Path::new(&there), self.bytes));
        let figure = self.transfer("agent.file_write", bare, ours).await;
        self.agent.files().remove(&dir, Reach::Recursive).await.map_err(fault)?;
        figure
    }

    /// Measures a transfer beside its floor, alternating; throughput in MiB/s.
    async fn transfer(
        &self,
        name: &str,
        bare: Option<impl Fn() -> Result<Duration, CliError>>,
        ours: impl AsyncFn() -> Result<(), CliError>,
    ) -> Result<Figure, CliError> {
        let mib_per_s = |took: Duration| (self.bytes / MIB) as f64 / took.as_secs_f64();
        let (mut values, mut floors) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            if let Some(bare) = &bare {
                floors.push(mib_per_s(tokio::task::block_in_place(bare)?));
            }
            let began = Instant::now();
            ours().await?;
            values.push(mib_per_s(began.elapsed()));
        }
        let mut figure = Figure::new(name, median(&mut values), "MiB/s");
        if !floors.is_empty() {
            figure = figure.over(median(&mut floors));
        }
        Ok(if self.same_side { figure.ratio_at_least(0.7) } else { figure })
    }
}
