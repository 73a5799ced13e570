//! How an assistant turns a prompt into a command.

use aetherium_model::{
    assistant::{AssistantName, AssistantOptions},
    recipe::UserName,
    run::Command,
};
use serde::Deserialize;

/// One assistant.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssistantDefinition {
    /// Its name.
    pub name: AssistantName,
    /// Who it runs as, and whose home has its files; as the template says where absent.
    #[serde(default)]
    pub user: Option<UserName>,
    prompt: PromptCommand,
}

/// The command for one prompt.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct PromptCommand {
    /// Program and arguments; `{prompt}` stands for the prompt's text.
    argv: Vec<String>,
}

/// What a command is made for.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// The prompt's text.
    pub prompt: &'a str,
    /// How it is to be answered.
    pub options: AssistantOptions,
    /// The conversation it goes on with.
    pub session: Option<&'a str>,
}

impl<'a> Ask<'a> {
    /// A prompt that asks for nothing else.
    pub fn of(prompt: &'a str) -> Self {
        Self { prompt, options: AssistantOptions::default(), session: None }
    }
}

impl AssistantDefinition {
    /// The command that answers a prompt.
    pub fn command(&self, ask: &Ask<'_>) -> Command {
        Command::new(self.prompt.argv.iter().map(|part| part.replace("{prompt}", ask.prompt)))
    }
}
