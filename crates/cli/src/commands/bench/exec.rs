//! `true` in a running VM: by the HTTP API, by the agent's client, and by a shell in the guest.

use super::{Figure, median, ms, percentile, server};
use crate::{
    args::{Args, BenchArgs},
    client::Client,
    error::CliError,
    progress::Bars,
    server::Server,
};
use aetherium_agent_client::{AgentClient, ExecSpec, collect};
use aetherium_gateway::api::Execute;
use aetherium_model::{Code, Fault, VmId, interactive::Captured};
use std::time::Instant;

/// Commands that the shell in the guest runs for one sample.
const LOOP: u32 = 20;

struct Samples {
    http: Vec<f64>,
    agent: Vec<f64>,
    guest: Vec<f64>,
}

pub(super) async fn exec(
    args: &Args,
    rounds: u32,
    bench: &BenchArgs,
) -> Result<Vec<Figure>, CliError> {
    let server = server(args, bench).await?;
    let measured = measure(&server, rounds, bench).await;
    server.stop().await;
    let Samples { mut http, mut agent, mut guest } = measured?;
    let (http_p50, agent_p50, guest_p50) =
        (median(&mut http), median(&mut agent), median(&mut guest));
    Ok(vec![
        Figure::new("exec.spawn_in_guest_p50", guest_p50, "ms"),
        Figure::new("exec.agent_client_p50", agent_p50, "ms").over(guest_p50),
        Figure::new("exec.http_p50", http_p50, "ms").over(agent_p50),
        Figure::new("exec.http_p99", percentile(&mut http, 99.0), "ms")
            .over(percentile(&mut agent, 99.0)),
        Figure::new("exec.http_added_p50", http_p50 - agent_p50, "ms").value_at_most(2.0),
    ])
}

async fn measure(server: &Server, rounds: u32, bench: &BenchArgs) -> Result<Samples, CliError> {
    let client = server.client()?;
    let bars = Bars::new();
    let made = super::create(&client, &bench.template).await?;
    let vm = super::super::vm::running(&client, &made.id.to_string()).await?.id;
    let agent = server.worker.agent(vm).await?;
    let mut samples = Samples { http: Vec::new(), agent: Vec::new(), guest: Vec::new() };
    for round in 0..rounds + 5 {
        bars.tick(&format!("round {round} of {rounds}"));
        let http = by_http(&client, vm).await?;
        let direct = by_agent(&agent, &["true"]).await?;
        // The first rounds warm caches on every side.
        if round >= 5 {
            samples.http.push(http);
            samples.agent.push(direct);
        }
        if round % 10 == 0 {
            samples.guest.push(in_guest(&agent).await?);
        }
    }
    bars.clear();
    Ok(samples)
}

async fn by_http(client: &Client, vm: VmId) -> Result<f64, CliError> {
    let request = Execute {
        argv: vec!["true".to_owned()],
        env: Default::default(),
        secrets: Default::default(),
        cwd: None,
        user: None,
        timeout_ms: None,
        detached: false,
        schedule: Default::default(),
    };
    let began = Instant::now();
    let ran: Captured = client.post(&format!("/vms/{vm}/execute"), &request).await?;
    let took = ms(began.elapsed());
    if ran.result.exit_code == 0 { Ok(took) } else { Err(failed(&ran.stderr)) }
}

async fn by_agent(agent: &AgentClient, argv: &[&str]) -> Result<f64, CliError> {
    let began = Instant::now();
    let process = agent.exec(ExecSpec::new(argv.iter().copied())).await.map_err(agent_fault)?;
    collect(process, 4096).await.map_err(|error| failed(&error.to_string()))?;
    Ok(ms(began.elapsed()))
}

/// What the guest itself needs to start a program and wait for it, by its shell.
async fn in_guest(agent: &AgentClient) -> Result<f64, CliError> {
    let script = format!("i=0; while [ $i -lt {LOOP} ]; do /bin/true; i=$((i+1)); done");
    let process = agent.exec(ExecSpec::new(["sh", "-c", &script])).await.map_err(agent_fault)?;
    let output = collect(process, 4096).await.map_err(|error| failed(&error.to_string()))?;
    Ok(output.exit.wall_ms as f64 / f64::from(LOOP))
}

fn agent_fault(error: aetherium_agent_client::AgentError) -> Fault {
    Fault::new(Code::AgentLost, error.to_string())
}

fn failed(detail: &str) -> CliError {
    Fault::new(Code::SpawnFailed, format!("`true` did not run: {detail}")).into()
}
