//! Snapshots of a QEMU: its migration, written to a file of ours and read from it again.
//!
//! ```text
//! take: paused ─► getfd ─► migrate fd: ─► completed: postmigrate ─ cont ─► running
//! load: inmigrate ─► getfd ─► migrate-incoming fd: ─► completed: paused ─ cont ─► running
//! ```
//! QEMU gets the file open over its monitor: its sandbox lets it start no program, and `file:` came
//! with 8.2. One file holds memory and devices; the disks are whoever owns the VM's to copy, and have
//! been flushed when a snapshot is complete.

use super::monitor::Monitor;
use crate::{
    AgentAddress, Footprint, LaunchSpec, SnapshotFiles, SnapshotKind, VmmError, spawn::open_log,
    supervise::remove_if_there,
};
use aetherium_model::resources::DriverKind;
use serde_json::{Value, json};
use std::{fs::File, os::fd::AsFd, path::Path, time::Duration};
use tokio::time::{sleep, timeout};

/// How long writing or reading all of a guest's memory may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(300);
/// How long QEMU may take to stop writing.
const GIVE_UP_DEADLINE: Duration = Duration::from_secs(10);
/// How often a migration is looked at: its end comes as an event only where that was asked for.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// By which name QEMU knows the file.
const FILE: &str = "snapshot";
/// Bytes per second. QEMU's own limit is that of a network; this is the most that it takes.
const BANDWIDTH: u64 = i64::MAX as u64 / 1000;

/// Refuses a VM that is to be made ready for what QEMU cannot do.
pub(super) fn refuse_unready(spec: &LaunchSpec) -> Result<(), VmmError> {
    match spec.tracks_dirty_pages() {
        true => unsupported("take diff snapshots", "it writes all of a guest's memory"),
        false => Ok(()),
    }
}

fn unsupported(verb: &'static str, why: &str) -> Result<(), VmmError> {
    Err(VmmError::Unsupported { driver: DriverKind::Qemu, verb, why: why.to_owned() })
}

/// Refuses what QEMU cannot save.
pub(super) fn refuse(footprint: &Footprint, kind: SnapshotKind) -> Result<(), VmmError> {
    if kind == SnapshotKind::Diff {
        return unsupported("take diff snapshots", "it writes all of a guest's memory");
    }
    if footprint.agent.iter().any(|it| matches!(it, AgentAddress::Vsock { .. })) {
        let why = "QEMU cannot save the virtio socket that this VM has; create the VM with \
                   snapshots `full`, and its agent is reached over TCP";
        return unsupported("take a snapshot", why);
    }
    Ok(())
}

/// Takes a snapshot of a paused guest, into files that are made here.
pub(super) async fn take(monitor: &Path, files: &SnapshotFiles) -> Result<(), VmmError> {
    for file in [&files.memory, &files.state] {
        remove_if_there(file)?;
    }
    drop(open_log(&files.memory)?);
    let state = open_log(&files.state)?;
    let taken = async {
        let mut monitor = Monitor::connect(monitor).await?;
        let status = monitor.execute("query-status", json!({})).await?;
        if status["status"] == "postmigrate" {
            // One guest is written but once, unless it ran in between.
            monitor.execute("cont", json!({})).await?;
            monitor.execute("stop", json!({})).await?;
        }
        let limits = json!({ "max-bandwidth": BANDWIDTH });
        monitor.execute("migrate-set-parameters", limits).await?;
        monitor.lend(FILE, state.as_fd()).await?;
        monitor.execute("migrate", json!({ "uri": format!("fd:{FILE}") })).await?;
        completed(&mut monitor, "migrate").await
    };
    within(DEADLINE, "migrate", taken).await
}

/// Ends what is being written of a guest.
pub(super) async fn give_up(monitor: &Path) -> Result<(), VmmError> {
    let given_up = async {
        let mut monitor = Monitor::connect(monitor).await?;
        monitor.execute("migrate_cancel", json!({})).await?;
        loop {
            let progress = monitor.execute("query-migrate", json!({})).await?;
            match progress["status"].as_str() {
                None | Some("none" | "completed" | "failed" | "cancelled") => return Ok(()),
                Some(_) => sleep(LOOK_AGAIN).await,
            }
        }
    };
    within(GIVE_UP_DEADLINE, "migrate_cancel", given_up).await
}

/// Loads a snapshot into a QEMU that waits for one; the guest stays paused.
pub(super) async fn load(monitor: &Path, files: &SnapshotFiles) -> Result<(), VmmError> {
    let state = File::open(&files.state).map_err(VmmError::io("open", &files.state))?;
    let mut monitor = Monitor::connect(monitor).await?;
    monitor.lend(FILE, state.as_fd()).await?;
    monitor.execute("migrate-incoming", json!({ "uri": format!("fd:{FILE}") })).await?;
    completed(&mut monitor, "migrate-incoming").await
}

/// Waits for a migration's end. An incoming one that fails ends its QEMU.
async fn completed(monitor: &mut Monitor, command: &str) -> Result<(), VmmError> {
    loop {
        let progress = monitor.execute("query-migrate", json!({})).await?;
        match progress["status"].as_str() {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => return Err(failed(command, &progress)),
            _ => sleep(LOOK_AGAIN).await,
        }
    }
}

fn failed(command: &str, progress: &Value) -> VmmError {
    let said = progress["error-desc"].as_str().unwrap_or("it does not say why");
    VmmError::Control { command: command.to_owned(), answer: said.to_owned() }
}

async fn within<T>(
    deadline: Duration,
    call: &str,
    asked: impl Future<Output = Result<T, VmmError>>,
) -> Result<T, VmmError> {
    let late = |_| VmmError::Unanswered { call: call.to_owned(), waited: deadline };
    timeout(deadline, asked).await.map_err(late)?
}
