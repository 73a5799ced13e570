//! The grammar of `aetherium bench`.

use super::{DriverArgs, parse::duration};
use aetherium_model::Name;
use clap::{Args as ClapArgs, Subcommand};
use std::{path::PathBuf, time::Duration};

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// The agent alone: calls, commands, bulk transfers and memory, against bare sockets and spawns.
    Agent(AgentBenchArgs),
    /// Prompts: how soon a handler begins with one that was accepted, and how many a gateway accepts
    /// beside a bare loop of inserts into the same database.
    Api(ApiBenchArgs),
    /// Create request to first byte of output, against a bare QEMU until its agent answers.
    Boot {
        /// How many of each, alternating.
        #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        #[command(flatten)]
        bench: BenchArgs,
    },
    /// `true` in a running VM: by the HTTP API, by the agent's client, and inside the guest.
    Exec {
        /// How many of each, alternating.
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rounds: u32,
        #[command(flatten)]
        bench: BenchArgs,
    },
    /// First command over vsock, and with vsock made unavailable in the guest.
    Fallback {
        /// How many of each, alternating.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        #[command(flatten)]
        bench: BenchArgs,
    },
    /// A fleet in this process: workers with simulated VMs behind a real gateway, store and queue.
    Fleet(FleetBenchArgs),
    /// Images and disks: layers to a root filesystem against `tar` and `mkfs.ext4`, a large VM's disk
    /// against a small one's, and what VMs of one template share of the page cache.
    Image(ImageBenchArgs),
    /// Request for a VM from a snapshot to first byte of output, against a bare VMM that loads the
    /// same files to the first output by its agent.
    Restore {
        /// How many of each, alternating.
        #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        #[command(flatten)]
        bench: BenchArgs,
    },
    /// Prompt to first byte of output in a hibernated workspace, against one whose VM boots.
    Wake {
        /// How many of each, alternating.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        #[command(flatten)]
        bench: BenchArgs,
    },
    /// Memory and processor time of an idle server.
    Idle {
        /// How long to watch it.
        #[arg(long, default_value = "20s", value_parser = duration, value_name = "TIME")]
        watch: Duration,
        #[command(flatten)]
        bench: BenchArgs,
    },
}

/// Arguments of every benchmark.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct BenchArgs {
    /// The template to start from.
    #[arg(long, default_value = "default")]
    pub(crate) template: Name,
    #[command(flatten)]
    pub(crate) driver: DriverArgs,
}

/// Arguments of `bench agent`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct AgentBenchArgs {
    /// How many commands, and a tenth of how many calls.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rounds: u32,
    /// How much each bulk transfer carries, in MiB; 1024, or 64 in a VM. A VM's memory must hold it
    /// twice over.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub(crate) mib: Option<u64>,
    /// Also write a file of so many GiB to the agent's disk, in /var/tmp, and read it back.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1024), value_name = "GIB")]
    pub(crate) large_file_gib: Option<u64>,
    #[command(flatten)]
    pub(crate) bench: BenchArgs,
}

/// Arguments of `bench image`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct ImageBenchArgs {
    /// How many of each, alternating.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// How much the image holds that is unpacked, in MiB.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(32..=16_384))]
    pub(crate) mib: u64,
    /// Where it is unpacked: in memory, where no disk hides what takes the time. Room is needed for
    /// four times the image.
    #[arg(long, default_value = "/dev/shm", value_name = "DIR")]
    pub(crate) unpack_in: PathBuf,
    /// How many VMs run at once when their share of the page cache is measured.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) vms: u32,
    #[command(flatten)]
    pub(crate) bench: BenchArgs,
}

/// Where a benchmark of server parts keeps its truth.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct BenchStoreArgs {
    /// A PostgreSQL server, as postgres://user@host/name: a database of the benchmark's own is made
    /// there, and dropped in the end. Without it SQLite in a temporary directory.
    #[arg(long, value_name = "URL")]
    pub(crate) database: Option<String>,
    /// The Redis that carries calls and changes, as redis://host:port. Without it they stay in this
    /// process.
    #[arg(long, value_name = "URL")]
    pub(crate) redis: Option<String>,
}

/// Arguments of `bench api`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct ApiBenchArgs {
    /// How long each of the two parts takes, such as `30s`.
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub(crate) seconds: Duration,
    /// Prompts a second whose dispatch is measured.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
    #[command(flatten)]
    pub(crate) store: BenchStoreArgs,
}

/// Arguments of `bench fleet`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct FleetBenchArgs {
    /// How many workers.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub(crate) workers: u32,
    /// How many VMs in all.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    pub(crate) vms: u32,
    /// How many of them are created a second.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
    /// How long the fleet is watched while nothing is asked of it, such as `20s`.
    #[arg(long, default_value = "20s", value_parser = duration, value_name = "TIME")]
    pub(crate) seconds: Duration,
    /// What the VMs' times are drawn from.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Run one worker in a process of its own, and measure what it costs while its VMs are idle.
    #[arg(long)]
    pub(crate) idle: bool,
    #[command(flatten)]
    pub(crate) store: BenchStoreArgs,
}
