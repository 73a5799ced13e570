//! Arguments of the verbs that watch a server.

use super::duration;
use clap::{Args as ClapArgs, ValueEnum};
use std::time::Duration;

/// By what VMs are ordered, the most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum TopOrder {
    /// Processor time.
    #[default]
    Cpu,
    /// Memory on the host.
    Memory,
    /// Bytes read from and written to disks.
    Disk,
    /// Bytes received and sent.
    Net,
    /// Time since they were made.
    Age,
}

/// Arguments of `top`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct TopArgs {
    /// What comes first.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) sort: TopOrder,
    /// How often to look, such as `2s`.
    #[arg(long, default_value = "2s", value_parser = duration, value_name = "TIME")]
    pub(crate) every: Duration,
    /// Print one table and end, as is done where standard output is no terminal.
    #[arg(long)]
    pub(crate) once: bool,
}
