//! `aetherium bench …`: figures beside a floor taken in the same run, alternating, with medians.
//!
//! Every figure is printed as `{name, value, unit, floor, ratio, goal, pass}`; a goal that is missed
//! ends the program with 1. A figure without a goal is there to be read beside the others.

mod agent;
mod api;
mod boot;
mod database;
mod exec;
mod fallback;
mod firecracker;
mod fleet;
mod front;
mod idle;
mod image;
mod proc;
mod restore;
mod restore_floor;
mod wake;

use crate::{
    args::{Args, BenchArgs, BenchCommand},
    attach::{self, Input, Output},
    client::Client,
    datadir::DataDir,
    error::CliError,
    print,
    server::{Server, ServerConfig},
};
use aetherium_gateway::api::CreateVm;
use aetherium_model::{Name, run::Command, task::Task, vm::Vm};
use serde::Serialize;
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

/// One figure.
#[derive(Debug, Clone, Serialize)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    /// What it is compared with, in the same unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<f64>,
    /// Value over floor.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    /// What it must keep to, in words that name which of the numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<String>,
    pass: bool,
}

impl Figure {
    fn new(name: &str, value: f64, unit: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            value,
            unit,
            floor: None,
            ratio: None,
            goal: None,
            pass: true,
        }
    }

    fn over(mut self, floor: f64) -> Self {
        self.floor = Some(floor);
        self.ratio = (floor > 0.0).then(|| self.value / floor);
        self
    }

    fn ratio_at_most(mut self, most: f64) -> Self {
        self.goal = Some(format!("ratio ≤ {most}"));
        self.pass = self.ratio.is_some_and(|ratio| ratio <= most);
        self
    }

    fn ratio_at_least(mut self, least: f64) -> Self {
        self.goal = Some(format!("ratio ≥ {least}"));
        self.pass = self.ratio.is_some_and(|ratio| ratio >= least);
        self
    }

    fn value_at_most(mut self, most: f64) -> Self {
        self.goal = Some(format!("value ≤ {most}"));
        self.pass = self.value <= most;
        self
    }
}

pub(crate) async fn dispatch(args: &Args, verb: &BenchCommand) -> Result<ExitCode, CliError> {
    let figures = match verb {
        BenchCommand::Agent(wanted) => agent::agent(args, wanted).await?,
        BenchCommand::Api(wanted) => Box::pin(api::api(wanted)).await?,
        BenchCommand::Boot { rounds, bench } => boot::boot(args, *rounds, bench).await?,
        BenchCommand::Exec { rounds, bench } => exec::exec(args, *rounds, bench).await?,
        BenchCommand::Fallback { rounds, bench } => {
            fallback::fallback(args, *rounds, bench).await?
        }
        BenchCommand::Fleet(wanted) => Box::pin(fleet::fleet(wanted)).await?,
        BenchCommand::Image(wanted) => image::image(args, wanted).await?,
        BenchCommand::Idle { watch, bench } => idle::idle(args, *watch, bench).await?,
        BenchCommand::Restore { rounds, bench } => restore::restore(args, *rounds, bench).await?,
        BenchCommand::Wake { rounds, bench } => wake::wake(args, *rounds, bench).await?,
    };
    if args.json {
        print::json(&figures)?;
    } else {
        show(&figures);
    }
    let passed = figures.iter().all(|figure| figure.pass);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(figures: &[Figure]) {
    let number =
        |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    let rows: Vec<Vec<String>> = figures
        .iter()
        .map(|it| {
            let verdict = match (&it.goal, it.pass) {
                (None, _) => "",
                (Some(_), true) => "pass",
                (Some(_), false) => "MISSED",
            };
            vec![
                it.name.clone(),
                number(Some(it.value)),
                it.unit.to_owned(),
                number(it.floor),
                number(it.ratio),
                it.goal.clone().unwrap_or_default(),
                verdict.to_owned(),
            ]
        })
        .collect();
    print::table(&["FIGURE", "VALUE", "UNIT", "FLOOR", "RATIO", "GOAL", ""], &rows);
}

/// The value below which `percent` of the samples lie (nearest rank).
fn percentile(samples: &mut [f64], percent: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * samples.len() as f64).ceil() as usize;
    samples.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn median(samples: &mut [f64]) -> f64 {
    percentile(samples, 50.0)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A server for a benchmark, on the data directory of the arguments.
async fn server(args: &Args, bench: &BenchArgs) -> Result<Server, CliError> {
    let data = DataDir::locate(args.data_dir.as_deref())?;
    Server::start(ServerConfig::private(data, bench.driver.clone())).await
}

async fn create(client: &Client, template: &Name) -> Result<Vm, CliError> {
    let request = CreateVm { template: Some(template.into()), ..CreateVm::default() };
    client.post("/vms", &request).await
}

/// Notes when the first byte of output comes.
#[derive(Default)]
struct FirstByte(Option<Instant>);

impl Output for FirstByte {
    fn stdout(&mut self, _bytes: &[u8]) {
        self.0.get_or_insert_with(Instant::now);
    }

    fn stderr(&mut self, _bytes: &[u8]) {}
}

/// The time from the request for a VM to the first byte of a command's output, and the VM as it was
/// then. The VM is ended, and gone, when this returns.
async fn to_first_output(client: &Client, template: &Name) -> Result<(Duration, Vm), CliError> {
    let request = CreateVm { template: Some(template.into()), ..CreateVm::default() };
    first_output(client, &request).await
}

/// The same for a VM as asked for.
async fn first_output(client: &Client, request: &CreateVm) -> Result<(Duration, Vm), CliError> {
    let began = Instant::now();
    let vm: Vm = client.post("/vms", request).await?;
    let id = vm.id.to_string();
    let mut first = FirstByte::default();
    let ended = attach::run(
        client,
        &format!("vms/{id}"),
        &Command::new(["echo", "x"]),
        Input::None,
        &mut first,
    )
    .await;
    let vm: Vm = client.get(&format!("/vms/{id}")).await?;
    let task: Task = client.delete(&format!("/vms/{id}")).await?;
    while !client.get::<Task>(&format!("/tasks/{}", task.id)).await?.state.is_terminal() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ended?;
    let first =
        first.0.ok_or_else(|| aetherium_model::Fault::internal("the command printed nothing"))?;
    Ok((first - began, vm))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let mut samples = [5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!(median(&mut samples), 3.0);
        assert_eq!(percentile(&mut samples, 99.0), 5.0);
        assert_eq!(percentile(&mut [7.0], 50.0), 7.0);
    }

    #[test]
    fn a_missed_goal_is_told_from_one_that_was_met() {
        let figure = |value| Figure::new("x", value, "ms").over(100.0).ratio_at_most(1.25);
        assert!(figure(125.0).pass);
        assert!(!figure(126.0).pass);
        assert!(!Figure::new("x", 1.0, "ms").over(0.0).ratio_at_most(1.25).pass);
    }
}
