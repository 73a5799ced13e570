//! Arguments of `tool`.

use aetherium_model::setup::ToolRef;
use clap::Subcommand;

/// Verbs on tools.
#[derive(Debug, Subcommand)]
pub(crate) enum ToolCommand {
    /// List them.
    List,
    /// Show one: its versions, and what it is installed by.
    #[command(
        visible_alias = "get",
        after_help = "Examples:
  aetherium tool show nodejs
  aetherium tool show node --json"
    )]
    Show {
        /// Its name, or another that it answers to.
        #[arg(value_name = "NAME")]
        tool: ToolRef,
    },
}
