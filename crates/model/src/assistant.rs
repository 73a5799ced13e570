//! Assistants: what turns a prompt into a command. How each does is data, and `aetherium-catalog`'s;
//! here are their names, what a prompt may ask of them, and what they tell while they work.

use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt, str::FromStr};

/// An assistant's name: 1 to 63 of a-z, 0-9 and `-`, starting with a letter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
#[schema(value_type = String, pattern = "^[a-z][a-z0-9-]{0,62}$", example = "shell")]
#[serde(transparent)]
pub struct AssistantName(Cow<'static, str>);

/// Why a text cannot be an assistant's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be an assistant's name: use 1 to 63 of a-z, 0-9 and '-', starting with a letter"
)]
pub struct InvalidAssistantName(String);

impl AssistantName {
    /// The one whose prompts are command lines, which every catalogue has.
    pub const SHELL: Self = Self(Cow::Borrowed("shell"));

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for AssistantName {
    fn default() -> Self {
        Self::SHELL
    }
}

impl FromStr for AssistantName {
    type Err = InvalidAssistantName;

    fn from_str(given: &str) -> Result<Self, InvalidAssistantName> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let valid = (1..=63).contains(&given.len())
            && given.bytes().all(allowed)
            && given.as_bytes()[0].is_ascii_lowercase();
        if valid {
            Ok(Self(Cow::Owned(given.to_owned())))
        } else {
            Err(InvalidAssistantName(given.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for AssistantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AssistantName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How an assistant is to work. What is absent is as its definition says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AssistantOptions {
    /// The model it asks, as its provider names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200, example = "sonnet")]
    pub model: Option<String>,
    /// What it is told besides its own system prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 65_536)]
    pub system_prompt: Option<String>,
    /// What it may do without asking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission_mode: Option<PermissionMode>,
}

impl AssistantOptions {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These, with `over` going before them.
    #[must_use]
    pub fn with(&self, over: &Self) -> Self {
        Self {
            model: over.model.clone().or_else(|| self.model.clone()),
            system_prompt: over.system_prompt.clone().or_else(|| self.system_prompt.clone()),
            permission_mode: over.permission_mode.or(self.permission_mode),
        }
    }
}

/// What an assistant may do without asking, which nobody could answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PermissionMode {
    /// Read, and say what it would do.
    Plan,
    /// Edit files, and nothing else that it would ask about.
    Edits,
    /// Everything: the VM is its fence.
    All,
}

impl PermissionMode {
    /// The name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Edits => "edits",
            Self::All => "all",
        }
    }
}

impl FromStr for PermissionMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Plan, Self::Edits, Self::All]
            .into_iter()
            .find(|known| known.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not a permission mode: give plan, edits or all"))
    }
}

/// What an assistant's own output says, in words that all of them share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AssistantEvent {
    /// The conversation it works in, which the next prompt goes on with.
    Session {
        /// Its id, as the assistant names it.
        session: String,
    },
    /// Something it says.
    Text {
        /// The words.
        text: String,
    },
    /// A tool it uses.
    ToolUse {
        /// The tool's name.
        name: String,
        /// What it gives it.
        #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
        input: serde_json::Value,
    },
    /// What a tool gave back.
    ToolResult {
        /// The result as text.
        text: String,
        /// Whether the tool failed.
        #[serde(default)]
        is_error: bool,
    },
    /// What it has used.
    Cost {
        /// In US dollars.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usd: Option<f64>,
        /// Tokens read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input_tokens: Option<u64>,
        /// Tokens written.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output_tokens: Option<u64>,
        /// Whether this is all that its conversation has used, with the prompts before, and not only what
        /// was used since the last of these.
        #[serde(default)]
        of_conversation: bool,
    },
    /// Its answer to the prompt.
    Result {
        /// The answer.
        text: String,
        /// Whether it says that it failed.
        #[serde(default)]
        is_error: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_leave_its_directory_is_refused() {
        for bad in ["", "../x", "A", "a b", "1a", "-a", "a.b"] {
            assert!(bad.parse::<AssistantName>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!("claude-code".parse::<AssistantName>().unwrap().as_str(), "claude-code");
        assert_eq!(AssistantName::default(), "shell".parse().unwrap());
    }

    #[test]
    fn what_a_prompt_asks_goes_before_what_its_workspace_does() {
        let workspace = AssistantOptions {
            model: Some("small".to_owned()),
            permission_mode: Some(PermissionMode::Plan),
            ..AssistantOptions::default()
        };
        let prompt = AssistantOptions {
            model: Some("large".to_owned()),
            system_prompt: Some("be brief".to_owned()),
            ..AssistantOptions::default()
        };
        let both = workspace.with(&prompt);
        assert_eq!(both.model.as_deref(), Some("large"));
        assert_eq!(both.system_prompt.as_deref(), Some("be brief"));
        assert_eq!(both.permission_mode, Some(PermissionMode::Plan));
    }
}
