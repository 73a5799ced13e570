//! Arguments of the roles that a fleet is made of.

use super::{DatabaseArgs, DriverArgs, EventLogArgs, duration};
use clap::Args as ClapArgs;
use std::{net::SocketAddr, path::PathBuf, time::Duration};

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
    /// The file with the API keys that it takes, one per line, each of 16 characters or more; else one
    /// key of its own, made in the data directory.
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
    #[command(flatten)]
    pub(crate) driver: DriverArgs,
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
}
