//! Which Firecracker there is. Asked once, by running it.

use super::plan::FirecrackerVersion;
use crate::{VmmError, spawn::find_program};
use aetherium_model::finding::Finding;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{process::Command, sync::OnceCell, time::timeout};

/// The program's name in `PATH`.
pub(super) const PROGRAM: &str = "firecracker";
const REMEDY: &str = "install a release of github.com/firecracker-microvm/firecracker, 1.16.1 or \
                      later, or name the program with --firecracker";
const DEADLINE: Duration = Duration::from_secs(10);

/// A Firecracker that has been asked.
#[derive(Debug, Clone)]
pub(super) struct Info {
    pub(super) path: PathBuf,
    pub(super) version: FirecrackerVersion,
}

impl Info {
    /// Its name with its version.
    pub(super) fn name(&self) -> String {
        format!("Firecracker {}", self.version)
    }
}

/// The Firecracker to use; asked at the first need, and again as long as it does not answer.
#[derive(Debug)]
pub(super) struct Program {
    configured: Option<PathBuf>,
    info: OnceCell<Info>,
    snapshot_format: OnceCell<String>,
}

impl Program {
    pub(super) const fn new(configured: Option<PathBuf>) -> Self {
        Self { configured, info: OnceCell::const_new(), snapshot_format: OnceCell::const_new() }
    }

    /// What it is.
    ///
    /// # Errors
    /// When it is missing or does not tell its version.
    pub(super) async fn info(&self) -> Result<Info, VmmError> {
        self.info.get_or_try_init(|| self.ask()).await.cloned()
    }

    /// The version of its snapshots' format.
    ///
    /// # Errors
    /// When it is missing or does not tell.
    pub(super) async fn snapshot_format(&self) -> Result<String, VmmError> {
        let asked = async {
            let text = ask(&self.info().await?.path, "--snapshot-version").await?;
            Ok(text.lines().next().unwrap_or_default().trim_start_matches('v').to_owned())
        };
        self.snapshot_format.get_or_try_init(|| asked).await.cloned()
    }

    async fn ask(&self) -> Result<Info, VmmError> {
        let wanted = || self.configured.clone().unwrap_or_else(|| PROGRAM.into());
        let path = find_program(self.configured.as_deref(), PROGRAM)
            .ok_or_else(|| VmmError::ProgramMissing { program: wanted(), remedy: REMEDY })?;
        let text = ask(&path, "--version").await?;
        let version = text.parse().map_err(|_| VmmError::Control {
            command: format!("{} --version", path.display()),
            answer: text.chars().take(200).collect(),
        })?;
        Ok(Info { path, version })
    }
}

/// What Firecracker prints for a question.
pub(super) async fn ask(path: &Path, question: &str) -> Result<String, VmmError> {
    let mut command = Command::new(path);
    command.arg(question).stdin(Stdio::null()).kill_on_drop(true);
    let not_ready =
        |_| VmmError::NotReady { program: path.to_owned(), waited: DEADLINE, log: Vec::new() };
    let output = timeout(DEADLINE, command.output()).await.map_err(not_ready)?;
    let output = output.map_err(|source| VmmError::Spawn { program: path.to_owned(), source })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether it is there, and new enough.
pub(super) fn finding(info: &Result<Info, VmmError>) -> Finding {
    let (check, why) = ("firecracker.binary", "Firecracker runs the VMs");
    let info = match info {
        Ok(info) => info,
        Err(error) => return Finding::fail(check, error.to_string(), why, REMEDY),
    };
    let found = format!("{} {}", info.path.display(), info.version);
    if info.version < FirecrackerVersion::OLDEST {
        return Finding::fail(check, found, why, REMEDY);
    }
    Finding::ok(check, found, why)
}
