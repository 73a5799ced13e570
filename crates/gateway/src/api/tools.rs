//! Tools as callers see them.

use aetherium_catalog::{Others, ToolDefinition};
use serde::{Deserialize, Serialize};

/// A tool that workspaces may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Tool {
    /// Its name.
    #[schema(example = "nodejs")]
    pub name: String,
    /// Other names that it answers to.
    pub aliases: Vec<String>,
    /// What it is, in a line.
    pub description: String,
    /// Where its version comes from that is had where none is asked for.
    pub by_default: ToolSource,
    /// That version; absent where it is the distribution's, or the tool has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_version: Option<String>,
    /// Versions that may be asked for, the likeliest first.
    pub versions: Vec<String>,
    /// Whether others may be, too: numbers with dots between, such as `20.11.1`.
    pub any_number: bool,
    /// Tools that come with it where a version is asked for, or it is no package.
    pub requires: Vec<String>,
    /// A line for a shell that succeeds where it is installed.
    pub check: String,
}

/// Where a tool comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolSource {
    /// Packages of the template's distribution.
    Packages,
    /// A script of the catalogue.
    Script,
}

impl From<&ToolDefinition> for Tool {
    fn from(tool: &ToolDefinition) -> Self {
        let by_default = match tool.packages {
            Some(_) => ToolSource::Packages,
            None => ToolSource::Script,
        };
        let requires = tool.install.iter().flat_map(|it| &it.requires);
        Self {
            name: tool.name.clone(),
            aliases: tool.aliases.clone(),
            description: tool.description.clone(),
            by_default,
            default_version: match by_default {
                ToolSource::Packages => None,
                ToolSource::Script => tool.versions.default.clone(),
            },
            versions: tool.versions.listed.clone(),
            any_number: tool.versions.others == Others::Numbers,
            requires: requires.map(ToString::to_string).collect(),
            check: tool.check.clone(),
        }
    }
}
