//! Arguments of the roles that a fleet is made of.

use super::{
    DatabaseArgs, DriverArgs, EventLogArgs, RoleKeysArgs,
    parse::{duration, label, lease},
};
use aetherium_model::{
    Name,
    room::{Overcommit, Ratio},
    worker::Lease,
};
use aetherium_worker::DEFAULT_MAX_VMS;
use clap::Args as ClapArgs;
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// What workspaces can be given by name.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct CatalogArgs {
    /// A directory with definitions of assistants and tools, as `assistants/NAME.toml` and
    /// `tools/NAME.toml`, which go before those of the program; else `catalog` in the data directory, where
    /// that is there.
    #[arg(long, env = "AETHERIUM_CATALOG", value_name = "DIR")]
    pub(crate) catalog: Option<PathBuf>,
}

/// What gateways and workers of one fleet share.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct FleetArgs {
    /// The file with the secret by which workers know their gateways: 32 bytes or more, the same for
    /// the whole fleet, such as `openssl rand -hex 32` makes.
    #[arg(long, env = "AETHERIUM_FLEET_KEY_FILE", value_name = "FILE")]
    pub(crate) fleet_key_file: Option<PathBuf>,
    /// The Redis (7 or newer) that tells the fleet's processes of each other's work at once, such as
    /// `redis://:password@host:6379`, or `rediss://` for TLS. Nothing is kept in it; while it is away, or
    /// when none is named, they look into the database several times a second.
    #[arg(long, env = "AETHERIUM_REDIS", hide_env_values = true, value_name = "URL")]
    pub(crate) redis: Option<String>,
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    #[command(flatten)]
    pub(crate) secrets: RoleKeysArgs,
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
}

/// Arguments of `gateway`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct GatewayArgs {
    /// The address of the API; port 0 takes a free one.
    #[arg(
        long,
        env = "AETHERIUM_LISTEN",
        default_value = "127.0.0.1:7070",
        value_name = "ADDRESS"
    )]
    pub(crate) listen: SocketAddr,
    /// Where operators ask for metrics and health, without authentication; port 0 takes a free one.
    #[arg(
        long,
        env = "AETHERIUM_OPERATIONS_LISTEN",
        default_value = "127.0.0.1:7072",
        value_name = "ADDRESS"
    )]
    pub(crate) operations_listen: SocketAddr,
    /// The file with the API keys that it takes, one per line, each of 16 characters or more, after the
    /// name of its project if that is not `default`; else one key of its own, made in the data directory.
    #[arg(long, env = "AETHERIUM_API_KEYS_FILE", value_name = "FILE")]
    pub(crate) api_keys_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    #[command(flatten)]
    pub(crate) events: EventLogArgs,
}

/// Arguments of `worker` without a verb.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct WorkerArgs {
    /// The address of the internal API, for gateways alone; port 0 takes a free one.
    #[arg(
        long,
        env = "AETHERIUM_WORKER_LISTEN",
        default_value = "127.0.0.1:7071",
        value_name = "ADDRESS"
    )]
    pub(crate) listen: SocketAddr,
    /// Where operators ask for metrics and health, without authentication; port 0 takes a free one.
    #[arg(
        long,
        env = "AETHERIUM_OPERATIONS_LISTEN",
        default_value = "127.0.0.1:7073",
        value_name = "ADDRESS"
    )]
    pub(crate) operations_listen: SocketAddr,
    /// The host and port under which gateways reach it; else the address it listens on.
    #[arg(long, env = "AETHERIUM_WORKER_ADDRESS", value_name = "HOST:PORT")]
    pub(crate) address: Option<String>,
    /// How long commands may go on after it was told to stop, such as `10s`.
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub(crate) grace: Duration,
    /// How long a VM may take until its agent answers.
    #[arg(long, default_value = "90s", value_parser = duration, value_name = "TIME")]
    pub(crate) boot_deadline: Duration,
    /// How long it may work without reaching the database, such as `20s`. Then it ends its VMs, and others
    /// count it as gone.
    #[arg(long, env = "AETHERIUM_LEASE", default_value = "20s", value_parser = lease, value_name = "TIME")]
    pub(crate) lease: Lease,
    #[command(flatten)]
    pub(crate) registration: RegistrationArgs,
    #[command(flatten)]
    pub(crate) driver: DriverArgs,
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
}

/// Where a worker stands, and how much may be put on it.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct RegistrationArgs {
    /// The zone it is in.
    #[arg(long, env = "AETHERIUM_ZONE", value_name = "NAME")]
    pub(crate) zone: Option<Name>,
    /// A label for placement; may be repeated.
    #[arg(
        long = "label",
        env = "AETHERIUM_LABELS",
        value_delimiter = ',',
        value_parser = label,
        value_name = "NAME=VALUE"
    )]
    pub(crate) labels: Vec<(Name, Name)>,
    /// vCPUs that may be promised for each processor.
    #[arg(long, env = "AETHERIUM_OVERCOMMIT_CPU", default_value = "4", value_name = "RATIO")]
    overcommit_cpu: Ratio,
    /// Guests' memory that may be promised for each part there is.
    #[arg(long, env = "AETHERIUM_OVERCOMMIT_MEMORY", default_value = "1", value_name = "RATIO")]
    overcommit_memory: Ratio,
    /// Guests' disks, which are sparse, that may be promised for each part there is.
    #[arg(long, env = "AETHERIUM_OVERCOMMIT_DISK", default_value = "2", value_name = "RATIO")]
    overcommit_disk: Ratio,
    /// VMs at once, at most.
    #[arg(long, env = "AETHERIUM_MAX_VMS", default_value_t = DEFAULT_MAX_VMS, value_name = "VMS")]
    pub(crate) max_vms: u32,
}

impl RegistrationArgs {
    /// The ratios as the model has them.
    pub(crate) const fn overcommit(&self) -> Overcommit {
        let Self { overcommit_cpu: cpu, overcommit_memory: memory, overcommit_disk: disk, .. } =
            *self;
        Overcommit { cpu, memory, disk }
    }
}
