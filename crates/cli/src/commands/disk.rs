//! `aetherium ws disk …`: workspaces' disks.

use crate::{
    args::{Args, DiskCommand},
    client::Client,
    error::{CliError, local},
    print,
    progress::Bars,
};
use aetherium_image::Progress as _;
use aetherium_model::{
    Code, Fault,
    disk::{GrowDisk, TakeDiskSnapshot, WorkspaceDisk},
};
use futures::StreamExt as _;
use serde::Serialize;
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::NamedTempFile;

/// Copying a disk, and checking and growing what is on it: the server's own deadline, and some more.
const WORK_DEADLINE: Duration = Duration::from_secs(630);

/// What was written.
#[derive(Debug, Serialize)]
struct Exported {
    file: PathBuf,
    bytes: u64,
}

pub(crate) async fn dispatch(
    args: &Args,
    client: &Client,
    verb: &DiskCommand,
) -> Result<(), CliError> {
    let nothing = serde_json::json!({});
    let bars = Bars::new();
    let (label, disk) = match verb {
        DiskCommand::Export { workspace, file } => {
            let exported = export(client, workspace, file, &bars).await;
            bars.clear();
            return show_export(args, &exported?);
        }
        DiskCommand::Show { workspace } => {
            ("", client.get::<WorkspaceDisk>(&path(workspace, "")).await)
        }
        DiskCommand::Snapshot { workspace, name } => {
            let body = TakeDiskSnapshot { name: name.clone() };
            bars.spin("copying the disk");
            ("kept", client.post_within(WORK_DEADLINE, &path(workspace, "/snapshots"), &body).await)
        }
        DiskCommand::Restore { workspace, name } => {
            let path = path(workspace, &format!("/snapshots/{name}/restore"));
            bars.spin("copying the snapshot");
            ("restored", client.post_within(WORK_DEADLINE, &path, &nothing).await)
        }
        DiskCommand::RemoveSnapshot { workspace, name } => {
            let path = path(workspace, &format!("/snapshots/{name}"));
            ("without the snapshot", client.delete(&path).await)
        }
        DiskCommand::Grow { workspace, size_mib } => {
            let body = GrowDisk { size_mib: *size_mib };
            bars.spin("growing the disk");
            ("grown", client.post_within(WORK_DEADLINE, &path(workspace, "/grow"), &body).await)
        }
    };
    bars.clear();
    let disk = disk?;
    if args.json {
        return print::json(&disk);
    }
    show(label, &disk);
    Ok(())
}

fn path(workspace: &str, below: &str) -> String {
    format!("/workspaces/{workspace}/disk{below}")
}

/// Writes the archive aside and gives it its name when all of it is there.
async fn export(
    client: &Client,
    workspace: &str,
    file: &Path,
    bars: &Bars,
) -> Result<Exported, CliError> {
    if file.exists() {
        return Err(Fault::new(Code::Conflict, format!("{} is there already", file.display()))
            .remedy("name another file, or remove that one")
            .into());
    }
    let dir = file.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |error: std::io::Error| local(format!("cannot write {}", file.display()), error);
    let mut aside = NamedTempFile::new_in(dir).map_err(failed)?;
    bars.spin("copying the disk");
    let answer = client.stream(&path(workspace, "/export"), WORK_DEADLINE).await?;
    let total = answer.content_length();
    bars.total("writing the archive", total);
    let (mut bytes, mut pieces) = (0, answer.bytes_stream());
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| local("the archive broke off", error))?;
        aside.write_all(&piece).map_err(failed)?;
        bytes += piece.len() as u64;
        bars.advance(piece.len() as u64);
    }
    bars.done();
    aside.as_file().sync_all().map_err(failed)?;
    aside.persist_noclobber(file).map_err(|error| failed(error.error))?;
    Ok(Exported { file: file.to_owned(), bytes })
}

fn show_export(args: &Args, exported: &Exported) -> Result<(), CliError> {
    if args.json {
        return print::json(exported);
    }
    println!("wrote {} ({})", exported.file.display(), mib(exported.bytes));
    Ok(())
}

fn show(label: &str, disk: &WorkspaceDisk) {
    let vm = disk.vm_id.map_or_else(|| "no VM has it".to_owned(), |vm| format!("{vm} has it"));
    let label = if label.is_empty() { String::new() } else { format!("{label}: ") };
    println!(
        "{label}{} MiB, of which the host holds {}; {vm}",
        disk.size_mib,
        mib(disk.used_bytes)
    );
    if disk.hibernation_bytes > 0 {
        println!("its hibernated VM has {} beside it", mib(disk.hibernation_bytes));
    }
    if disk.snapshots.is_empty() {
        return;
    }
    let rows: Vec<_> = disk
        .snapshots
        .iter()
        .map(|it| {
            let size = format!("{} MiB", it.size_mib);
            vec![it.name.to_string(), size, mib(it.used_bytes), it.created_at.to_string()]
        })
        .collect();
    print::table(&["SNAPSHOT", "SIZE", "HELD", "TAKEN"], &rows);
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}
