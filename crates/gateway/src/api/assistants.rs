//! Assistants as callers see them.

use aetherium_catalog::AssistantDefinition;
use aetherium_model::{
    assistant::{AssistantName, PermissionMode},
    secret::{SecretKind, SecretName},
};
use serde::{Deserialize, Serialize};

/// An assistant that workspaces may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Assistant {
    /// Its name.
    pub name: AssistantName,
    /// What it is, in a line.
    pub description: String,
    /// Who it runs as; who the template says where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Secrets of which it wants one.
    pub credentials: Vec<AssistantCredential>,
    /// Whether somebody can log in to its provider instead.
    pub has_login: bool,
    /// Whether it is of use without either.
    pub works_without_credentials: bool,
    /// Whether a prompt can say which model it asks.
    pub takes_model: bool,
    /// Whether it can be told of MCP servers.
    pub takes_mcp_servers: bool,
    /// Whether a prompt goes on with the conversation of the one before it.
    pub has_sessions: bool,
    /// Whether its output is read, and told as events.
    pub has_events: bool,
    /// What it may be permitted.
    pub permission_modes: Vec<PermissionMode>,
    /// What it is permitted where nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_permission_mode: Option<PermissionMode>,
    /// Tools that are installed with it.
    pub tools: Vec<String>,
}

/// A secret that an assistant is known to its provider by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AssistantCredential {
    /// Its name.
    pub secret: SecretName,
    /// What it is.
    pub kind: SecretKind,
}

impl From<&AssistantDefinition> for Assistant {
    fn from(it: &AssistantDefinition) -> Self {
        let credentials = it.credentials.iter().map(|credential| AssistantCredential {
            secret: credential.secret.clone(),
            kind: credential.kind,
        });
        Self {
            name: it.name.clone(),
            description: it.description.clone(),
            user: it.user.as_ref().map(ToString::to_string),
            credentials: credentials.collect(),
            has_login: it.login.is_some(),
            works_without_credentials: it.needs_no_credentials(),
            takes_model: it.takes_model(),
            takes_mcp_servers: it.takes_mcp_servers(),
            has_sessions: it.has_sessions(),
            has_events: it.parser().is_some(),
            permission_modes: it.permission_modes().collect(),
            default_permission_mode: it.default_permission_mode(),
            tools: it.install.tools.iter().map(ToString::to_string).collect(),
        }
    }
}
