//! A run, from its plan to its verdict.

use crate::{
    args::Args,
    client::{self, Api, Load},
    collect,
    error::Error,
    faults::Broken,
    fleet::{self, Fleet},
    network::Network,
    relay::Relay,
    watch::Watch,
};
use chaos::{
    evidence::{self, End, Faults},
    plan::{Kind, Planned, Shape, plan},
};
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};
use test_servers::{Postgres, Redis};
use tokio::time::Instant;

const GATEWAYS: u8 = 2;
const WORKERS: u8 = 3;
/// A fleet on two busy cores has started by then, and has made its workspaces.
const START: Duration = Duration::from_secs(180);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// A workspace's VM ends after so many seconds without work, so that VMs come and go all the time.
const IDLE_S: u32 = 5;

pub(crate) async fn run(args: &Args) -> Result<ExitCode, Error> {
    let (lasts, lease) = (args.lasts(), args.lease());
    let shape = Shape { gateways: GATEWAYS, workers: WORKERS, kinds: possible(args), lasts, lease };
    let plan = plan(args.seed, &shape);
    announce(args, &plan);
    if args.plan {
        return Ok(ExitCode::SUCCESS);
    }
    let dir = tempfile::Builder::new().prefix("chaos").tempdir();
    let dir = dir.map_err(Error::io("make", "a directory for the run"))?.keep();
    let (seed, kinds) = (args.seed, shape.kinds.clone());
    write_json(&dir.join(evidence::PLAN), &Faults { seed, kinds, steps: plan.clone() })?;
    let verdict = match observe(args, &shape, &plan, &dir).await {
        Ok(()) => judge(args, &dir),
        Err(error) => Err(error),
    };
    match &verdict {
        Ok(good) if *good == ExitCode::SUCCESS && !args.keep => {
            std::fs::remove_dir_all(&dir).map_err(Error::io("remove", dir.display()))?;
        }
        _ => eprintln!("the evidence and the logs are in {}", dir.display()),
    }
    verdict
}

/// What of what is wanted can be done here; says what cannot.
fn possible(args: &Args) -> Vec<Kind> {
    let mut kinds = args.faults();
    let mut without = |kind: Kind, why: &str| {
        if kinds.contains(&kind) {
            eprintln!("{why}");
            kinds.retain(|it| *it != kind);
        }
    };
    if !rustix::process::geteuid().is_root() {
        without(Kind::Cut, "networks are not cut: that needs root");
    }
    if fleet::faketime().is_none() {
        without(Kind::Skew, "clocks are not set wrong: that needs Debian's package `faketime`");
    }
    kinds
}

fn announce(args: &Args, plan: &[Planned]) {
    eprintln!(
        "seed {}: {} prompts to {} workspaces in {} s, leases of {} s, {} steps",
        args.seed,
        args.prompts,
        args.workspaces,
        args.seconds,
        args.lease,
        plan.len()
    );
    if args.plan {
        plan.iter().for_each(|planned| println!("{planned}"));
    }
}

/// Runs the fleet and writes everything down that the checker asks for.
async fn observe(args: &Args, shape: &Shape, plan: &[Planned], dir: &Path) -> Result<(), Error> {
    let network = Network::prepare()?;
    let (postgres, mut redis) = tokio::task::block_in_place(|| (Postgres::start(), Redis::start()));
    let own = postgres.database();
    let (database_relay, database_url) = relayed(network, &postgres.by_loopback(&own)).await?;
    let (redis_relay, redis_url) = relayed(network, &redis.url()).await?;
    let database = PgPool::connect(&own).await?;
    let urls = (database_url, redis_url);
    let mut fleet = Fleet::start(args, shape, dir, network, urls)?;
    let api = Api::new(fleet.gateways())?;
    let workspaces = tokio::select! {
        made = start(&api, args) => made?,
        // Two that make the schema at once may end and be started again.
        never = tend(&mut fleet) => return never,
    };
    let (script, effects) = (dir.join("effect"), dir.join(evidence::EFFECTS));
    fleet::write(&effects, "")?;
    fleet::write(&script, &client::effect(&effects))?;

    let watch = Watch::start();
    let began = Instant::now();
    let deadline = began + args.lasts() + args.patience();
    let over = args.lasts().mul_f64(0.9);
    let (seed, prompts) = (args.seed, args.prompts);
    let load = Load { seed, prompts, workspaces: &workspaces, script: &script, over };
    let sending = load.send(&api, began, deadline);
    let mut broken =
        Broken { fleet: &mut fleet, network, redis: &mut redis, database: &database, began };
    broken.follow(plan).await?;
    broken.tend_until(began + args.lasts()).await?;
    eprintln!("             nothing is broken any more");

    let sent = tokio::select! {
        sent = sending.join_all() => sent,
        never = tend(&mut fleet) => return never,
    };
    write_lines(&dir.join(evidence::SENT), &sent)?;
    let end = tokio::select! {
        end = wind_up(&database, &api, &workspaces, deadline) => end,
        never = tend(&mut fleet) => return never,
    };
    let mut end = end?;
    end.leftovers.extend(tokio::task::block_in_place(|| fleet.stop())?);
    end.leftovers.extend(collect::left_on_the_machine(&fleet, network)?);
    write_lines(&dir.join(evidence::LIVES), &watch.lives())?;
    write_json(&dir.join(evidence::END), &end)?;
    database.close().await;
    drop((database_relay, redis_relay));
    Ok(())
}

/// Starts what ended by itself again, until it is dropped.
async fn tend(fleet: &mut Fleet) -> Result<(), Error> {
    loop {
        for (node, status) in fleet.tend()? {
            eprintln!("             {node} has ended by itself, with {status}; start it again");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// A server's URL as the fleet knows it, behind a relay.
async fn relayed(network: Network, url: &str) -> Result<(Relay, String), Error> {
    let (rest, path) = match url.rsplit_once('/') {
        Some((rest, name)) if rest.contains('@') => (rest, format!("/{name}")),
        _ => (url, String::new()),
    };
    let split =
        rest.rsplit_once('@').and_then(|(before, host)| Some((before, host.rsplit_once(':')?)));
    let found = split.and_then(|(before, (_, port))| Some((before, port.parse().ok()?)));
    let Some((before, port)) = found else {
        return Err(Error::io("find the port in", url)(std::io::ErrorKind::InvalidInput.into()));
    };
    let relay = Relay::start(network.hub(), port).await?;
    let url = format!("{before}@{}:{}{path}", network.hub(), relay.port());
    Ok((relay, url))
}

/// Waits for the fleet, and makes the workspaces.
async fn start(api: &Api, args: &Args) -> Result<Vec<String>, Error> {
    let deadline = Instant::now() + START;
    until(api, "/workers", deadline, |all| {
        let states = all["items"].as_array().into_iter().flatten();
        states.filter(|it| it["state"] == "active").count() == usize::from(WORKERS)
    })
    .await?;
    let mut workspaces = Vec::new();
    for number in 0..args.workspaces {
        let body = json!({
            "name": format!("chaos-{number}"), "ai_assistant": "shell", "idle_timeout_s": IDLE_S,
            "vcpus": 1, "memory_mib": 128, "disk_mib": 64,
        });
        let made = api.insist((Method::POST, "/workspaces"), Some(&body), deadline).await?;
        workspaces.push(made["id"].as_str().unwrap_or_default().to_owned());
    }
    for workspace in &workspaces {
        let path = format!("/workspaces/{workspace}");
        until(api, &path, deadline, |it| it["state"] == "ready").await?;
    }
    Ok(workspaces)
}

async fn until(
    api: &Api,
    path: &str,
    deadline: Instant,
    wanted: impl Fn(&Value) -> bool,
) -> Result<(), Error> {
    loop {
        let value = api.insist((Method::GET, path), None, deadline).await?;
        if wanted(&value) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let what = format!("{path} stays at {value}");
            return Err(Error::TooLate { what, waited: START });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Waits until nothing is under way, writes the rows down, and removes everything.
async fn wind_up(
    database: &PgPool,
    api: &Api,
    workspaces: &[String],
    deadline: Instant,
) -> Result<End, Error> {
    let open = "SELECT COUNT(*) FROM runs WHERE finished_at IS NULL";
    collect::until_none(database, "prompts", open, deadline).await?;
    // However late that was, there is time to write it down and to remove it.
    let deadline = deadline.max(Instant::now() + START);
    let prompts = collect::prompts(database, api, deadline).await?;
    for workspace in workspaces {
        let path = format!("/workspaces/{workspace}");
        api.insist((Method::DELETE, &path), None, deadline).await?;
    }
    let left = "SELECT (SELECT COUNT(*) FROM tasks WHERE finished_at IS NULL) \
                + (SELECT COUNT(*) FROM vms WHERE ended_at IS NULL)";
    collect::until_none(database, "tasks and VMs", left, deadline).await?;
    Ok(End {
        prompts,
        vms: collect::vms(database).await?,
        unfinished_tasks: collect::unfinished_tasks(database).await?,
        leftovers: collect::promised(database).await?,
    })
}

/// Has the checker look at it.
fn judge(args: &Args, dir: &Path) -> Result<ExitCode, Error> {
    let own: PathBuf = std::env::current_exe().map_err(Error::io("find", "the program itself"))?;
    let mut checker = Command::new(own.with_file_name("chaos-check"));
    if args.json {
        checker.arg("--json");
    }
    let status = checker.arg(dir).status().map_err(Error::io("run", "chaos-check"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value);
    fleet::write(path, &text.map_err(|error| Error::io("write", path.display())(error.into()))?)
}

fn write_lines<T: Serialize>(path: &Path, values: &[T]) -> Result<(), Error> {
    let mut lines = String::new();
    for value in values {
        let line = serde_json::to_string(value);
        let line = line.map_err(|error| Error::io("write", path.display())(error.into()))?;
        // Writing into a string cannot fail.
        let _ = writeln!(lines, "{line}");
    }
    fleet::write(path, &lines)
}
