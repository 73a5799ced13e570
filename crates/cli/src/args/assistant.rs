//! Arguments of `assistant`.

use aetherium_model::assistant::AssistantName;
use clap::Subcommand;

/// Verbs on assistants.
#[derive(Debug, Subcommand)]
pub(crate) enum AssistantCommand {
    /// List them.
    List,
    /// Show one: what it wants, and what a prompt may ask of it.
    #[command(
        visible_alias = "get",
        after_help = "Examples:
  aetherium assistant show claude-code
  aetherium assistant show claude-code --json"
    )]
    Show {
        /// Its name.
        #[arg(value_name = "NAME")]
        assistant: AssistantName,
    },
}
