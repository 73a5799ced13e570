//! The grammar of `aetherium migrate`.

use super::{DatabaseArgs, duration};
use clap::Args as ClapArgs;
use std::time::Duration;

/// Arguments of `migrate`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    /// How long a database that does not answer yet is waited for, such as `5m`.
    #[arg(long, default_value = "0s", value_parser = duration, value_name = "TIME")]
    pub(crate) wait: Duration,
}
