//! The agent alone: calls, commands, bulk transfers, memory, each beside a floor without a protocol.
//!
//! With the process driver both sides run on this host over a Unix socket, and the goals apply. In a
//! VM the floors are of that guest: its own shell for a command, and for the rest a small program in
//! it, reached over the same virtio socket as the agent. The ratios are there to be read.

mod floor;
mod large;
mod memory;
mod transfer;

use super::{Figure, median, ms, percentile, server};
use crate::{
    args::{AgentBenchArgs, Args},
    error::CliError,
    progress::Bars,
};
use aetherium_agent_client::{
    AgentClient, AgentError, AgentTransport, ExecSpec, Process, ProcessEvent,
};
use aetherium_model::{Code, Fault, resources::DriverKind};
use floor::{Echo, Floor};
use std::time::{Duration, Instant};

/// The bytes of one piece of input: what the agent sends at once, too.
const PIECE: usize = 128 * 1024;
const MIB: u64 = 1024 * 1024;
/// What a bulk transfer carries where nobody says: much, and what half of a small guest's memory holds.
const HOST_MIB: u64 = 1024;
const GUEST_MIB: u64 = 64;
/// Commands at once; in a guest, which may be emulated and has one CPU, fewer.
const CONCURRENT: usize = 200;
const GUEST_CONCURRENT: usize = 20;
/// Idle terminals; in a guest, whose memory is small, fewer.
const TERMINALS: usize = 1_000;
const GUEST_TERMINALS: usize = 100;
/// KILL, see signal(7).
const SIGKILL: i32 = 9;
/// Pings beside a stalled stream, and as many without.
const STALL_PINGS: u32 = 1_000;

/// What every stage works with.
struct Bench<'a> {
    agent: &'a AgentClient,
    bars: &'a Bars,
    /// Whether the floor runs where the agent runs.
    same_side: bool,
    rounds: u32,
    bytes: u64,
}

pub(super) async fn agent(args: &Args, wanted: &AgentBenchArgs) -> Result<Vec<Figure>, CliError> {
    let server = server(args, &wanted.bench).await?;
    let bars = Bars::new();
    let measured = async {
        let client = server.client()?;
        let made = super::create(&client, &wanted.bench.template).await?;
        let vm = super::super::vm::running(&client, &made.id.to_string()).await?;
        let agent = server.worker.agent(vm.id).await?;
        let same_side = vm.driver == Some(DriverKind::Process);
        // The way that every driver prefers and has a floor, whichever was faster at the boot.
        let agent = agent.over(AgentTransport::Vsock).unwrap_or(agent);
        let mib = wanted.mib.unwrap_or(if same_side { HOST_MIB } else { GUEST_MIB });
        let bytes = mib * MIB;
        let bench = Bench { agent: &agent, bars: &bars, same_side, rounds: wanted.rounds, bytes };
        let mut figures = bench.all().await?;
        if let Some(gib) = wanted.large_file_gib {
            figures.extend(bench.large_file(gib * 1024 * MIB).await?);
        }
        Ok(figures)
    }
    .await;
    bars.clear();
    server.stop().await;
    measured
}

impl Bench<'_> {
    async fn all(&self) -> Result<Vec<Figure>, CliError> {
        let mut figures = vec![memory::program(self.agent).await?, memory::idle(self.agent).await?];
        let floor =
            if self.same_side { Some(Floor::Host) } else { Floor::in_guest(self.agent).await? };
        figures.extend(self.ping(floor.as_ref()).await?);
        figures.push(self.exec().await?);
        figures.push(self.output(floor.as_ref()).await?);
        figures.push(self.input(floor.as_ref()).await?);
        figures.push(self.file(floor.as_ref()).await?);
        drop(floor);
        figures.extend(self.concurrent().await?);
        figures.extend(self.stalled().await?);
        figures.push(self.terminals().await?);
        Ok(figures)
    }

    async fn ping(&self, floor: Option<&Floor>) -> Result<Vec<Figure>, CliError> {
        self.bars.spin("calls");
        let mut echo = floor.map(Floor::echo).transpose()?;
        let (mut ours, mut raw) = (Vec::new(), Vec::new());
        for round in 0..self.rounds * 10 + 20 {
            let floor = echo.as_mut().map(Echo::ping).transpose()?;
            let call = ping(self.agent).await?;
            if round >= 20 {
                raw.extend(floor.map(micros));
                ours.push(micros(call));
            }
        }
        let mut figure = |percent| {
            let value = percentile(&mut ours, percent);
            let figure = Figure::new(&format!("agent.ping_p{percent}"), value, "µs");
            if raw.is_empty() { figure } else { figure.over(percentile(&mut raw, percent)) }
        };
        Ok(vec![figure(50.0), figure(99.0)])
    }

    async fn exec(&self) -> Result<Figure, CliError> {
        self.bars.spin("commands");
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for round in 0..self.rounds + 5 {
            let floor = if self.same_side {
                Some(ms(floor::spawn(&["true"])?))
            } else if round % 20 == 5 {
                Some(self.in_guest().await?)
            } else {
                None
            };
            let began = Instant::now();
            finish(start(self.agent, &["true"]).await?).await?;
            // The first rounds warm caches on both sides.
            if round >= 5 {
                ours.push(ms(began.elapsed()));
                plain.extend(floor);
            }
        }
        let figure = Figure::new("agent.exec_true_p50", median(&mut ours), "ms");
        let figure = figure.over(median(&mut plain));
        Ok(if self.same_side { figure.ratio_at_most(1.5) } else { figure })
    }

    /// What the guest itself needs to start a program and wait for it, by its shell, in
    /// milliseconds.
    async fn in_guest(&self) -> Result<f64, CliError> {
        const LOOP: u32 = 20;
        let script = format!("i=0; while [ $i -lt {LOOP} ]; do /bin/true; i=$((i+1)); done");
        let began = Instant::now();
        finish(start(self.agent, &["sh", "-c", &script]).await?).await?;
        Ok(ms(began.elapsed()) / f64::from(LOOP))
    }

    /// What the agent holds for terminals in which nothing happens.
    async fn terminals(&self) -> Result<Figure, CliError> {
        self.bars.spin("idle terminals");
        let count = if self.same_side { TERMINALS } else { GUEST_TERMINALS };
        let mut pids = Vec::new();
        for _ in 0..count {
            let spec = ExecSpec::new(["cat"]).on_terminal(24, 80, "xterm-256color").detached();
            pids.push(self.agent.exec(spec).await.map_err(fault)?.pid());
        }
        let held = memory::now(self.agent, &format!("agent.{count}_terminals_memory")).await;
        for pid in pids {
            self.agent.signal(pid, SIGKILL).await.map_err(fault)?;
        }
        held
    }

    /// Many commands at once.
    async fn concurrent(&self) -> Result<Vec<Figure>, CliError> {
        self.bars.spin("commands at once");
        memory::forget_peak(self.agent).await?;
        let began = Instant::now();
        let count = if self.same_side { CONCURRENT } else { GUEST_CONCURRENT };
        let each = (0..count).map(|_| async {
            let began = Instant::now();
            finish(start(self.agent, &["true"]).await?).await?;
            Ok::<_, CliError>(ms(began.elapsed()))
        });
        let mut each = futures::future::try_join_all(each).await?;
        let all = ms(began.elapsed());
        Ok(vec![
            Figure::new(&format!("agent.{count}_execs_all"), all, "ms"),
            Figure::new(&format!("agent.{count}_execs_p99"), percentile(&mut each, 99.0), "ms"),
            memory::peak(self.agent, &format!("agent.{count}_execs_peak_memory")).await?,
        ])
    }

    /// Calls beside a stream that nobody reads.
    async fn stalled(&self) -> Result<Vec<Figure>, CliError> {
        self.bars.spin("a stalled stream");
        memory::forget_peak(self.agent).await?;
        let mut quiet = self.pings().await?;
        let size = self.bytes.to_string();
        let mut stalled = start(self.agent, &["head", "-c", &size, "/dev/zero"]).await?;
        let first = stalled.next().await.map_err(fault)?;
        let mut beside = self.pings().await?;
        let peak = memory::peak(self.agent, "agent.stalled_peak_memory").await?;
        quiet.extend(self.pings().await?);
        // What was stalled is whole once it is read.
        whole(output_len(first.as_ref()) + finish(stalled).await?, self.bytes)?;
        let ping = Figure::new("agent.ping_p99_beside_stall", percentile(&mut beside, 99.0), "µs");
        let (ping, peak) =
            (ping.over(percentile(&mut quiet, 99.0)).ratio_at_most(2.0), peak.value_at_most(16.0));
        Ok(vec![ping, peak])
    }

    async fn pings(&self) -> Result<Vec<f64>, CliError> {
        let mut samples = Vec::new();
        for _ in 0..STALL_PINGS {
            samples.push(micros(ping(self.agent).await?));
        }
        Ok(samples)
    }
}

async fn ping(agent: &AgentClient) -> Result<Duration, CliError> {
    let began = Instant::now();
    agent.hello().await.map_err(fault)?;
    Ok(began.elapsed())
}

async fn start(agent: &AgentClient, argv: &[&str]) -> Result<Process, CliError> {
    Ok(agent.exec(ExecSpec::new(argv.iter().copied())).await.map_err(fault)?)
}

/// Follows a command to its end and returns how many bytes it wrote; it must succeed.
async fn finish(mut process: Process) -> Result<u64, CliError> {
    let mut bytes = 0;
    while let Some(event) = process.next().await.map_err(fault)? {
        bytes += output_len(Some(&event));
        if let ProcessEvent::Exited(exit) = event
            && !exit.status.success()
        {
            let detail = format!("a command of the benchmark ended with {}", exit.status);
            return Err(Fault::new(Code::SpawnFailed, detail).into());
        }
    }
    Ok(bytes)
}

fn output_len(event: Option<&ProcessEvent>) -> u64 {
    match event {
        Some(ProcessEvent::Stdout(data) | ProcessEvent::Stderr(data)) => data.len() as u64,
        _ => 0,
    }
}

fn whole(came: u64, wanted: u64) -> Result<(), CliError> {
    if came == wanted {
        return Ok(());
    }
    Err(Fault::internal(format!("{came} of {wanted} bytes came through")).into())
}

fn fault(error: AgentError) -> Fault {
    Fault::new(Code::AgentLost, error.to_string())
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
