//! `aetherium status`: one screen that says whether all is well, and what to do where it is not.

use crate::{args::Args, client::Client, error::CliError, print};
use aetherium_model::{finding::Verdict, status::Status, worker::Worker};
use std::{collections::BTreeMap, process::ExitCode};

/// Prints it; the exit code is 1 where a check failed.
pub(crate) async fn status(args: &Args) -> Result<ExitCode, CliError> {
    let client = Client::connect(args)?;
    let status: Status = client.get("/status").await?;
    if args.json {
        print::json(&status)?;
    } else {
        show(&client, &status);
    }
    Ok(if status.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(client: &Client, status: &Status) {
    let verdict = if status.healthy { "healthy" } else { "not healthy" };
    println!("aetherium {} at {}: {verdict}", status.version, client.base());
    let mut states = BTreeMap::<&str, u64>::new();
    for worker in &status.workers {
        *states.entry(worker.state.as_str()).or_default() += 1;
    }
    println!("workers  {}", counts(states));
    println!("VMs      {}", counts(status.vms.iter().map(|(state, vms)| (state.as_str(), *vms))));
    println!("waiting  {}", waiting(status));
    if !status.workers.is_empty() {
        println!();
        workers(status);
    }
    let problems = status.problems();
    if !problems.is_empty() {
        println!();
    }
    for problem in problems {
        let verdict = if problem.verdict == Verdict::Fail { "FAIL" } else { "WARN" };
        println!("{verdict}  {}: {}", problem.check, problem.found);
        println!("      {}", problem.why);
        println!("      what to do: {}", problem.remedy);
    }
}

fn counts<'a>(counted: impl IntoIterator<Item = (&'a str, u64)>) -> String {
    let parts: Vec<_> =
        counted.into_iter().map(|(name, count)| format!("{count} {name}")).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

fn waiting(status: &Status) -> String {
    let part = |it: &aetherium_model::status::WaitingTasks| {
        format!("{} {} (oldest {})", it.tasks, it.kind, print::millis(it.oldest_ms))
    };
    let parts: Vec<_> = status.waiting.iter().map(part).collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

fn workers(status: &Status) {
    let row = |worker: &Worker| {
        let silent = status.taken_at.since(worker.heartbeat_at);
        let silent = u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
        vec![
            worker.hostname.clone(),
            worker.state.as_str().to_owned(),
            worker.driver.map_or_else(|| "none".to_owned(), |it| it.to_string()),
            of(worker.reserved.vms.into(), worker.allocatable.vms.into()),
            of(worker.reserved.vcpus.into(), worker.allocatable.vcpus.into()),
            format!("{} MiB", of(worker.reserved.memory_mib, worker.allocatable.memory_mib)),
            format!("{} ago", print::millis(silent)),
            worker.id.to_string(),
        ]
    };
    let rows: Vec<_> = status.workers.iter().map(row).collect();
    let headings = ["HOST", "STATE", "DRIVER", "VMS", "CPUS", "MEMORY", "HEARTBEAT", "ID"];
    print::table(&headings, &rows);
}

/// What is promised, of what may be.
fn of(reserved: u64, allocatable: u64) -> String {
    format!("{reserved}/{allocatable}")
}
