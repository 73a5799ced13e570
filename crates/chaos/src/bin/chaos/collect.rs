//! Writes down what there is at the end: rows, and what was left.

use crate::{client::Api, error::Error, fleet::Fleet, network::Network, procfs};
use chaos::evidence::{PromptRow, VmRow};
use reqwest::Method;
use sqlx::{PgPool, Row as _};
use std::{collections::HashMap, fs, path::Path, time::Duration};
use tokio::time::Instant;

const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How often is said what is still waited for.
const SAY: Duration = Duration::from_secs(15);

/// Waits until a query that counts what is under way counts nothing, and returns what it counts at the
/// deadline.
pub(crate) async fn until_none(
    database: &PgPool,
    what: &str,
    count: &'static str,
    deadline: Instant,
) -> Result<i64, Error> {
    let mut say = Instant::now() + SAY;
    loop {
        let left: i64 = sqlx::query_scalar(count).fetch_one(database).await?;
        let now = Instant::now();
        if left == 0 || now >= deadline {
            return Ok(left);
        }
        if now >= say {
            eprintln!("             {left} {what} are not over yet");
            say = now + SAY;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Every prompt, as the database has it and as gateways tell it.
pub(crate) async fn prompts(
    database: &PgPool,
    api: &Api,
    deadline: Instant,
) -> Result<Vec<PromptRow>, Error> {
    let mut ends: HashMap<String, Vec<String>> = HashMap::new();
    let told = "SELECT subject_id, type FROM event_log WHERE subject_kind = 'prompt' \
                AND type IN ('prompt.completed', 'prompt.failed', 'prompt.interrupted', \
                'prompt.cancelled') ORDER BY seq NULLS LAST, ordinal, id";
    for row in sqlx::query(told).fetch_all(database).await? {
        ends.entry(row.try_get(0)?).or_default().push(row.try_get(1)?);
    }
    let all = "SELECT id, workspace_id, state, prompt_json, \
               state_json::json -> 'fault' ->> 'code' FROM runs \
               WHERE workspace_id IS NOT NULL ORDER BY id";
    let mut prompts = Vec::new();
    for row in sqlx::query(all).fetch_all(database).await? {
        let id: String = row.try_get(0)?;
        let workspace: String = row.try_get(1)?;
        let text: String = row.try_get(3)?;
        let path = format!("/workspaces/{workspace}/prompts/{id}");
        let shown = api.insist((Method::GET, &path), None, deadline).await?;
        prompts.push(PromptRow {
            token: token(&text),
            state: row.try_get(2)?,
            fault: row.try_get(4)?,
            shown: shown["state"].as_str().unwrap_or_default().to_owned(),
            ends: ends.remove(&id).unwrap_or_default(),
            id,
        });
    }
    Ok(prompts)
}

/// The token in a prompt's text.
fn token(text: &str) -> String {
    let after = text.split_once("token=").map_or("", |it| it.1);
    after.split(' ').next().unwrap_or_default().to_owned()
}

/// Every VM.
pub(crate) async fn vms(database: &PgPool) -> Result<Vec<VmRow>, Error> {
    let all = "SELECT id, workspace_id, state, ended_at IS NOT NULL FROM vms ORDER BY id";
    let rows = sqlx::query(all).fetch_all(database).await?;
    let vm = |row: &sqlx::postgres::PgRow| {
        let (id, workspace) = (row.try_get(0)?, row.try_get(1)?);
        Ok(VmRow { id, workspace, state: row.try_get(2)?, ended: row.try_get(3)? })
    };
    rows.iter().map(vm).collect()
}

/// Tasks without an end.
pub(crate) async fn unfinished_tasks(database: &PgPool) -> Result<Vec<String>, Error> {
    let open = "SELECT id || ' ' || kind || ' ' || state FROM tasks WHERE finished_at IS NULL";
    Ok(sqlx::query_scalar(open).fetch_all(database).await?)
}

/// What is still promised of workers, though nothing is there that it could be promised to.
pub(crate) async fn promised(database: &PgPool) -> Result<Vec<String>, Error> {
    let promised = "SELECT 'worker ' || id || ' has ' || vms || ' VMs, ' || reserved_vcpus || \
                    ' vCPUs, ' || reserved_memory_mib || ' MiB of memory, ' || reserved_disk_mib || \
                    ' MiB of disk promised' FROM workers WHERE vms <> 0 OR reserved_vcpus <> 0 \
                    OR reserved_memory_mib <> 0 OR reserved_disk_mib <> 0";
    Ok(sqlx::query_scalar(promised).fetch_all(database).await?)
}

/// Processes, namespaces and files that nothing needs any more, when the whole fleet has ended.
pub(crate) fn left_on_the_machine(fleet: &Fleet, network: Network) -> Result<Vec<String>, Error> {
    let of_vms = procfs::of_vms().into_iter();
    let mut left: Vec<_> =
        of_vms.map(|it| format!("process {} ({}) of {}", it.pid, it.name, it.vm)).collect();
    let strangers = network.strangers(&fleet.nodes())?;
    left.extend(strangers.into_iter().map(|it| format!("network namespace {it}")));
    for data in fleet.workers() {
        for vm in entries(&data.join("vms"))? {
            let kept = |name: &Path| {
                name.file_name().is_some_and(|it| it == "console.log" || it == "vmm.log")
            };
            let files = entries(&vm)?.into_iter().filter(|it| !kept(it));
            left.extend(files.map(|it| format!("file {}", it.display())));
        }
        for dir in ["workspaces", "builds", "snapshots"] {
            let files = entries(&data.join(dir))?.into_iter();
            left.extend(files.map(|it| format!("file {}", it.display())));
        }
        let socket = data.join("worker.sock");
        if socket.exists() {
            left.push(format!("file {}", socket.display()));
        }
    }
    Ok(left)
}

fn entries(dir: &Path) -> Result<Vec<std::path::PathBuf>, Error> {
    match fs::read_dir(dir) {
        Ok(all) => Ok(all.flatten().map(|it| it.path()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("list", dir.display())(error)),
    }
}
