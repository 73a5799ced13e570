//! The command line, and the namespaces that a run takes place in.

use crate::error::Error;
use chaos::plan::Kind;
use clap::Parser;
use std::{
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

/// Set for the program when it has put itself into namespaces of its own.
const INSIDE: &str = "CHAOS_INSIDE";

/// Breaks a fleet on purpose while prompts run in it, and checks what came of them.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// What the plan is drawn from: the same seed breaks the same things at the same times.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// For how long things are broken, in seconds.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(5..=86_400))]
    pub(crate) seconds: u32,
    /// How many prompts are sent in that time.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) prompts: u32,
    /// To how many workspaces.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) workspaces: u32,
    /// The workers' lease, in seconds.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub(crate) lease: u32,
    /// How long everything may take to come to an end once nothing is broken any more, in seconds.
    #[arg(long, default_value_t = 600)]
    pub(crate) patience: u64,
    /// What is done, of `kill,stop,cut,skew,redis,connections`; all where absent. Of the last three no prompt may come to harm;
    /// where there is no other, every prompt must be completed.
    #[arg(long, value_delimiter = ',', value_name = "FAULT")]
    faults: Vec<Kind>,
    /// Print the plan, and do nothing.
    #[arg(long)]
    pub(crate) plan: bool,
    /// Keep the directory of the run, also where all went well.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Print the verdict as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// The program under test.
    #[arg(long, default_value = "target/debug/aetherium", value_name = "FILE")]
    pub(crate) aetherium: PathBuf,
    /// What `make assets` has made: the agent, and a data directory with a template.
    #[arg(long, default_value = "target/test-assets", value_name = "DIR")]
    pub(crate) assets: PathBuf,
}

impl Args {
    /// What is to be done.
    pub(crate) fn faults(&self) -> Vec<Kind> {
        if self.faults.is_empty() { Kind::ALL.to_vec() } else { self.faults.clone() }
    }

    pub(crate) fn lasts(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs(self.lease.into())
    }

    pub(crate) const fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }

    /// Whether the program is where it wants to be. A plan can be printed anywhere.
    pub(crate) fn is_inside(&self) -> bool {
        self.plan || std::env::var_os(INSIDE).is_some()
    }

    /// Runs the program again in a network, a mount and a process namespace of its own, where root may
    /// make these; else where it is.
    pub(crate) fn enter(&self) -> Result<ExitCode, Error> {
        let program = std::env::current_exe().map_err(Error::io("find", "the program itself"))?;
        let mut command = if rustix::process::geteuid().is_root() {
            let mut unshare = Command::new("unshare");
            unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
            // The first process of a namespace inherits its orphans: a shell reaps them.
            unshare.args(["sh", "-c", "\"$@\"; exit $?", "sh"]);
            unshare.arg(program);
            unshare
        } else {
            Command::new(program)
        };
        let status = command
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .status()
            .map_err(Error::io("run", "unshare"))?;
        Ok(status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .map_or(ExitCode::FAILURE, ExitCode::from))
    }
}
