//! What callers say of prompts.

use super::{Check, check_uses, told, unmet, wrong};
use crate::problem::FieldError;
use aetherium_model::{
    assistant::AssistantOptions,
    limits::{MAX_PROMPT_BYTES, MAX_TIMEOUT},
    recipe::{EnvName, GuestPath},
    secret::SecretUses,
    setup::check_env,
    task::Schedule,
    workspace::PromptOptions,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Sends a prompt to a workspace's assistant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"prompt": "echo hello"}))]
pub struct CreatePrompt {
    /// The text.
    #[schema(min_length = 1, max_length = 262_144)]
    pub prompt: String,
    /// Secrets that it gets, besides its workspace's and before them.
    #[serde(default, skip_serializing_if = "SecretUses::is_empty")]
    pub secrets: SecretUses,
    /// Time it may take, in milliseconds; one hour where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86_400_000)]
    pub timeout_ms: Option<u64>,
    /// When it may run, and how soon.
    #[serde(default, skip_serializing_if = "Schedule::is_default")]
    pub schedule: Schedule,
    /// Environment, before the workspace's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub env: BTreeMap<EnvName, String>,
    /// Where it runs, in place of where the workspace's prompts do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<GuestPath>,
    /// How its assistant works, where it is not as the workspace says.
    #[serde(default, skip_serializing_if = "AssistantOptions::is_empty")]
    pub assistant: AssistantOptions,
    /// Whether it begins a conversation, instead of going on with the last prompt's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new_session: bool,
}

impl CreatePrompt {
    /// A prompt that asks for nothing else.
    pub fn of(prompt: impl Into<String>) -> Self {
        Self {
            prompt: prompt.into(),
            secrets: SecretUses::default(),
            timeout_ms: None,
            schedule: Schedule::default(),
            env: BTreeMap::new(),
            working_directory: None,
            assistant: AssistantOptions::default(),
            new_session: false,
        }
    }

    /// What it asks for besides its text, as its record has it.
    pub(crate) fn options(&self) -> PromptOptions {
        PromptOptions {
            env: self.env.clone(),
            working_directory: self.working_directory.clone(),
            assistant: self.assistant.clone(),
            new_session: self.new_session,
        }
    }
}

impl Check for CreatePrompt {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = check_uses(&self.secrets);
        errors.extend(unmet(self.schedule));
        errors.extend(told(check_env("env", &self.env)));
        let assistant = self.assistant.objections().into_iter();
        errors.extend(told(assistant.map(|it| it.within("assistant")).collect()));
        match self.prompt.len() {
            0 => errors.extend(wrong("prompt", "is empty")),
            bytes if bytes > MAX_PROMPT_BYTES => errors
                .extend(wrong("prompt", format!("has {bytes} bytes; at most {MAX_PROMPT_BYTES}"))),
            _ => {}
        }
        if self.prompt.contains('\0') {
            errors.extend(wrong("prompt", "contains a NUL byte"));
        }
        let most = u64::try_from(MAX_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        if let Some(ms) = self.timeout_ms.filter(|ms| !(1..=most).contains(ms)) {
            errors.extend(wrong("timeout_ms", format!("{ms} is not allowed: give 1 to {most}")));
        }
        errors
    }
}
