//! Environments: what workspaces are made from, kept under a name and in versions.

use crate::{
    EnvironmentId, Name, Timestamp,
    assistant::AssistantName,
    placement::Placement,
    resources::{DiskMib, MemoryMib, NetworkMode, Vcpus},
    secret::SecretUses,
    setup::Setup,
    template_ref::TemplateRef,
    workspace::IdleAction,
};
use serde::{Deserialize, Serialize};

/// What a workspace is made of. What is absent is left to the workspace, and then to the defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentSpec {
    /// What it is for, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1000)]
    pub description: String,
    /// What turns prompts into commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ai_assistant: Option<AssistantName>,
    /// The template of its VMs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateRef>,
    /// Virtual CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<Vcpus>,
    /// Guest memory in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<MemoryMib>,
    /// Writable disk in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<DiskMib>,
    /// What its VMs may reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkMode>,
    /// Secrets that each prompt gets.
    #[serde(default, skip_serializing_if = "SecretUses::is_empty")]
    pub secrets: SecretUses,
    /// Its VM is hibernated or stopped after so many seconds without work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 604_800)]
    pub idle_timeout_s: Option<u32>,
    /// Which of the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_action: Option<IdleAction>,
    /// Which workers may have it.
    #[serde(default, skip_serializing_if = "Placement::is_empty")]
    pub placement: Placement,
    /// What is put into it before its first prompt, and given to each.
    #[serde(default, skip_serializing_if = "Setup::is_empty")]
    pub setup: Setup,
}

/// A version of an environment. Each change makes the next; workspaces keep what they were made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Environment {
    /// Its id, the same in all versions.
    pub id: EnvironmentId,
    /// Its name, unique among environments.
    pub name: Name,
    /// Which version this is, from 1.
    pub version: u32,
    /// What it says.
    #[serde(flatten)]
    pub spec: EnvironmentSpec,
    /// When it was first made.
    pub created_at: Timestamp,
    /// When this version was.
    pub updated_at: Timestamp,
}

/// What a workspace was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MadeFrom {
    /// The environment, which may be gone.
    pub id: EnvironmentId,
    /// Its name at that time.
    pub name: Name,
    /// Its version.
    pub version: u32,
}
