//! Images and disks: how fast layers become a root filesystem, what a VM's own disk costs, and what
//! VMs of one template share of the host's page cache.
//!
//! Each part has its floor in the same run: `tar` and `mkfs.ext4` for the first, a small disk for the
//! second, the template's root filesystem, held once, for the third.
//!
//! Layers are unpacked in memory: what a disk takes for thousands of new files is the same for both
//! sides, and on some (ext4 without a journal, right after as many were removed) so much that it hides
//! every other difference. All else is made in `bench` of the data directory, on the filesystem where
//! templates and disks are. Both are removed afterwards.

mod cache;
mod clones;
mod layout;
mod throughput;

use super::{Figure, median, ms};
use crate::{
    args::{Args, ImageBenchArgs},
    datadir::DataDir,
    error::{CliError, local},
    progress::Bars,
};
use aetherium_model::Fault;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

pub(super) async fn image(args: &Args, wanted: &ImageBenchArgs) -> Result<Vec<Figure>, CliError> {
    let data = DataDir::locate(args.data_dir.as_deref())?;
    data.create()?;
    let bars = Bars::new();
    let mut figures = throughput::figures(wanted, &bars).await?;
    let work = Work::new(data.path().join("bench"))?;
    figures.extend(clones::figures(&data, work.path(), wanted.rounds, &bars).await?);
    figures.extend(cache::of_readers(&data, work.path(), wanted, &bars).await?);
    figures.extend(cache::of_vms(args, &data, wanted, &bars).await?);
    bars.clear();
    Ok(figures)
}

/// A directory that goes with this value.
struct Work(PathBuf);

impl Work {
    fn new(dir: PathBuf) -> Result<Self, CliError> {
        remade(&dir)?;
        Ok(Self(dir))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("warning: {} is left behind: {error}", self.0.display());
        }
    }
}

/// Makes an empty directory, in the place of one that an earlier run left.
fn remade(dir: &Path) -> Result<(), CliError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(local(dir.display(), error))
        }
        _ => std::fs::create_dir_all(dir).map_err(|error| local(dir.display(), error)),
    }
    .map_err(CliError::from)
}

/// Runs a program to its end, which must be a good one, and gives what it printed.
fn run(command: &mut Command) -> Result<String, CliError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| local(&program, error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Fault::internal(format!("{program} ended with {}: {}", output.status, said.trim())).into())
}
