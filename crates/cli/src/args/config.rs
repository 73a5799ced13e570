//! The grammar of `aetherium config`.

use clap::Subcommand;

/// Verbs on the configuration.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every option of the servers and of what prepares them as JSON: its environment variable,
    /// type and default. For whoever writes charts, units and checks of them.
    Schema,
}
