//! Recipes that turn a prompt into a command.

use crate::run::Command;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What answers the prompts of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Assistant {
    /// The prompt is a command line for `/bin/sh`.
    #[default]
    Shell,
}

impl Assistant {
    /// Every assistant there is.
    pub const ALL: [Self; 1] = [Self::Shell];

    /// The assistant's name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shell => "shell",
        }
    }

    /// The command that answers one prompt.
    pub fn command(self, prompt: &str, timeout_ms: Option<u64>) -> Command {
        match self {
            Self::Shell => Command { timeout_ms, ..Command::new(["/bin/sh", "-c", prompt]) },
        }
    }
}

impl fmt::Display for Assistant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Assistant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|known| known.as_str() == text).ok_or_else(|| {
            format!("{text:?} is not an assistant: give {}", Self::ALL.map(Self::as_str).join(", "))
        })
    }
}
